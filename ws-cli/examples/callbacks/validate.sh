#!/bin/sh
# Says who a visitor is by a cookie "token" and a file with lines of TOKEN and USER.
#
#   ws serve --validate 'ws-cli/examples/callbacks/validate.sh tokens.txt'
#
# One word on stdout and exit code 0: that is the user. Exit code 1: refused with 401. Anything
# else, here a file that cannot be read: 503.

[ -r "$1" ] || { echo "cannot read $1" >&2; exit 2; }

token=$(printf '%s' "$HTTP_COOKIE" | tr ';' '\n' | sed -n 's/^ *token=\([A-Za-z0-9_-]*\) *$/\1/p')
# A newline in it means that there are two such cookies.
case $token in
'' | *[!A-Za-z0-9_-]*) exit 1 ;;
esac

# The empty string makes it a comparison of text: as numbers, 1e3 and 1000 are equal.
exec awk -v token="$token" '
    $1 "" == token "" { print $2; found = 1; exit }
    END { exit !found }
' "$1"
