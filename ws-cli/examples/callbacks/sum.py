#!/usr/bin/env python3
"""Adds up the numbers of one visitor: a program for each connection, which remembers.

    ws serve --stream -- ws-cli/examples/callbacks/sum.py

Each message is a line of stdin, each line of stdout is a message. Lines must leave at once, so they
are flushed. When the browser leaves, stdin ends; when the program ends, the connection is closed.
"""

import os
import sys


def say(text):
    print(text, flush=True)


say(f"Hello {os.environ['WS_USER_ID']}, send numbers, or an empty message to end.")
total = 0
for line in sys.stdin:
    if not line.strip():
        say("Good bye.")
        break
    try:
        total += int(line)
        say(total)
    except ValueError:
        say("That is no number.")
# What stands here runs however the conversation ended: after 250 ms comes SIGTERM.
print(f"the total was {total}", file=sys.stderr)
