#!/usr/bin/env python3
"""Says who a visitor is by a signed cookie: user=NAME.SIGNATURE.

    ws serve --validate 'ws-cli/examples/callbacks/validate.py key.txt'

The signature is the HMAC-SHA256 of the name with the key in the file, in hexadecimal digits: what
the web application sets when somebody logs in. `validate.py key.txt NAME` prints that cookie.
"""

import hashlib
import hmac
import os
import pathlib
import sys


def sign(name, key):
    return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()


def cookies(header):
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return {name: value for name, _, value in pairs}


key = pathlib.Path(sys.argv[1]).read_bytes().strip()
if len(sys.argv) > 2:
    print(f"user={sys.argv[2]}.{sign(sys.argv[2], key)}")
    sys.exit()

name, _, signature = cookies(os.environ.get("HTTP_COOKIE", "")).get("user", "").rpartition(".")
if not name or not hmac.compare_digest(signature.encode(), sign(name, key).encode()):
    sys.exit(1)  # 401
print(name)
