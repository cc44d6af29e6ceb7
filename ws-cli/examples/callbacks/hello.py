#!/usr/bin/env python3
"""Answers by path, as a small web application does.

    ws serve -- ws-cli/examples/callbacks/hello.py

/hello/NAME greets, /sum?n=1&n=2 adds. A message that is no path is a POST; here it is JSON.
"""

import json
import os
import sys
from urllib.parse import parse_qs

method = os.environ["REQUEST_METHOD"]
# Decoded already; the query is as it was written.
path = os.environ["PATH_INFO"]
query = parse_qs(os.environ["QUERY_STRING"])

if method == "GET" and path.startswith("/hello/"):
    print(f"Hello, {path.removeprefix('/hello/')}!")
elif method == "GET" and path == "/sum":
    print(sum(int(number) for number in query.get("n", [])))
elif method == "POST":
    message = json.load(sys.stdin.buffer)
    print(json.dumps({"user": os.environ["WS_USER_ID"], "got": message}))
else:
    print("Send /hello/NAME, /sum?n=1&n=2 or JSON.")
