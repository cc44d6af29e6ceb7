#!/bin/sh
# Tells how far it is: each line is a message of its own, sent as soon as it is written.
#
#   WS__APP__OUTPUT=lines ws serve -- ws-cli/examples/callbacks/steps.sh
#
# The message says how many steps there are. If the last command fails, so does the answer: what was
# sent by then is sent, and app.error_reply follows.

read -r steps
case $steps in
    '' | *[!0-9]*) echo 'How many steps?'; exit ;;
esac
step=0
while [ "$step" -lt "$steps" ]; do
    step=$((step + 1))
    echo "step $step of $steps"
done
echo 'done'
