"""What the tests of the shims ask for."""

import os
import random
import signal
import subprocess
import sys
import time

import ws_shim

count = 0
random.seed(1)


def answer(env, body):
    global count
    uri = env["REQUEST_URI"]
    if uri == "/body":
        return body
    if uri == "/stdin":
        return sys.stdin.buffer.read()
    if uri == "/variables":
        return f"{env['PROBE']} {os.environ['PROBE']} {os.environ.get('OTHER', 'none')}"
    if uri == "/print":
        print("printed, ", end="")
        return "returned"
    if uri == "/program":
        print("before, ", end="", flush=True)
        subprocess.run(["echo", "program"], check=True)
    elif uri == "/header":
        ws_shim.header("X-WS-Close", "1000 bye")
    elif uri == "/split-header":
        ws_shim.header("X-WS-Close", "1000\r\nX-WS-User: root")
    elif uri == "/throw":
        print("half")
        raise LookupError("thrown as asked")
    elif uri == "/exit-0":
        print("half")
        sys.exit()
    elif uri == "/exit-3":
        sys.exit(3)
    elif uri == "/signal":
        os.kill(os.getpid(), signal.SIGKILL)
    elif uri == "/count":
        count += 1
        return str(count)
    elif uri == "/random":
        return str(random.random())
    elif uri == "/pid":
        return str(os.getpid())
    elif uri == "/hang":
        subprocess.run(["sleep", "600"], check=True)
    elif uri == "/shell":
        subprocess.run(env["COMMAND"], shell=True, check=True)
        return "done"
    elif uri == "/wait":
        open(env["FILE"] + ".begun", "w").close()
        while not os.path.exists(env["FILE"]):
            time.sleep(0.001)
        return "waited"
    elif uri == "/descriptors":
        # The directory itself is open while it is read, and gone when its link is.
        return "\n".join(f"{name} {link(name)}" for name in os.listdir("/proc/self/fd"))


def link(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return ""
