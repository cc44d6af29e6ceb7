#!/bin/sh
# A chat by the global FIFO: every message goes to everybody, with the name of its sender.
#
#   ws serve --validate VALIDATION -- ws-cli/examples/callbacks/chat.sh
#
# A record of a FIFO is one line of at most 4096 bytes, its newline and the name among them.

message=$(tr -d '\000-\037\177')
if [ ${#message} -gt 3800 ]; then
    echo 'That is too long.'
else
    printf '%s: %s\n' "$WS_USER_ID" "$message" > "$WS_GLOBAL_FIFO"
fi
