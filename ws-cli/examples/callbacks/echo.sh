#!/bin/sh
# Answers each message with who sent it and the message itself.
#
#   ws serve -- ws-cli/examples/callbacks/echo.sh
#
# The variables are those of CGI and some that begin with WS_; the message is on stdin. What goes
# to stdout is the reply, what goes to stderr is logged.

printf '%s, message %s: ' "$WS_USER_ID" "$WS_MESSAGE_ID"
cat
