#!/bin/sh
# An answer with headers of its own, as CGI has them: lines, an empty line, the reply.
#
#   WS__APP__OUTPUT=cgi ws serve -- ws-cli/examples/callbacks/headers.sh
#
# X-WS-Close closes the connection behind the reply, X-WS-Type makes it text or binary, and a Status
# of 400 or more is a failure.

case $PATH_INFO in
/bye) printf 'X-WS-Close: 4000 as you wish\n\nGood bye.' ;;
/bytes) printf 'X-WS-Type: binary\n\n\001\002\003' ;;
/fail) printf 'Status: 500\n\nNobody gets to see this.' ;;
*) printf '\nSend /bye, /bytes or /fail.' ;;
esac
