"""Runs a Python application for ws: loads it once, then answers each request in a new process.

    python3 fork.py app.py               a forked process per request
    python3 fork.py --worker app.py      all requests one after another in this process

The application is a file that defines a function `answer`. What that prints, and what it returns
(str, bytes or None), is the answer:

    # Loaded once: imports, configuration, models.
    def answer(env, body):
        return f"{body.decode()}, said {env['REMOTE_ADDR']}"

`env` holds the variables of CGI, which are also in os.environ; `body` is bytes, which are also on
stdin. `ws_shim.header("X-WS-Close", "1000 bye")`, after `import ws_shim`, adds a header to the
answer. What programs that it starts write to stdout belongs to the answer, too. To answer is to
return: who raises or exits has not answered, and what was printed before is dropped.

Whatever the application opens while it is loaded is shared by all processes, which no connection
to a database stands, and threads are not forked: begin those in the function.

A large application is forked in a fraction of the time if its memory is on pages of 2 MiB, for
which glibc 2.35 asks with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 and PYTHONMALLOC=malloc in the
environment.

Descriptor 0 is a listening Unix socket, the protocol is SCGI, the answer is CGI's with a
Content-Length. SIGTERM ends it after the requests that it has accepted. Needs Python 3.9, Linux.
"""

import gc
import importlib.util
import os
import re
import selectors
import signal
import socket
import sys
import traceback

MAX_REQUEST_SIZE = 64 << 20
MAX_CHILDREN = 256

_headers = []


def header(name, value):
    """Adds a header to the answer: X-WS-Type, X-WS-Close, X-WS-User, Status, Set-Cookie, ..."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", name) or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"not a header: {name}")
    _headers.append(f"{name}: {value}")


def parse_request(data):
    """Takes an SCGI request apart: its variables and its body; None if more has to come."""
    size = re.match(rb"([0-9]{1,9}):", data)
    if size is None:
        if re.fullmatch(rb"[0-9]{0,9}", data):
            return None
        raise ValueError("request does not begin with a length")
    start = size.end()
    comma = start + int(size[1])
    if len(data) <= comma:
        return None
    fields = bytes(data[start:comma]).split(b"\0")
    if data[comma : comma + 1] != b"," or fields.pop() or len(fields) % 2:
        raise ValueError("variables of the request are malformed")
    fields = [field.decode("utf-8", "surrogateescape") for field in fields]
    env = dict(zip(fields[0::2], fields[1::2]))
    length = env.get("CONTENT_LENGTH", "")
    if not re.fullmatch("[0-9]+", length):
        raise ValueError("request does not tell the length of its body")
    end = comma + 1 + int(length)
    if len(data) < end:
        return None
    return env, bytes(data[comma + 1 : end])


def build_answer(headers, body):
    lines = [*headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def run(application, env, body):
    """Runs the application for one request and returns the answer."""
    _headers.clear()
    put_on_descriptor(0, body)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    log = os.dup(1)
    put_on_descriptor(1, b"")
    os.environ.update(env)
    try:
        write(application(env, body))
        sys.stdout.flush()
        return build_answer(_headers, os.pread(1, os.fstat(1).st_size, 0))
    except BaseException:  # SystemExit, too: nobody has answered then.
        traceback.print_exc()
        return build_answer(["Status: 500"], b"")
    finally:
        sys.stdout.flush()
        os.dup2(log, 1)
        os.close(log)


def write(returned):
    if isinstance(returned, (bytes, bytearray, memoryview)):
        sys.stdout.flush()
        sys.stdout.buffer.write(returned)
    elif returned is not None:
        sys.stdout.write(returned)


def put_on_descriptor(number, content):
    """Makes a descriptor a file in memory, since bodies may be larger than a pipe."""
    file = os.memfd_create("ws")
    with open(file, "wb") as writer:
        writer.write(content)
        writer.seek(0)
        os.dup2(file, number)


class ForkServer:
    """Waits for connections and their requests, and for the ends of the children that answer."""

    def __init__(self, listener, application):
        self.listener = listener
        self.application = application
        self.arriving = {}  # Connections that are being read, and what came.
        self.children = {}  # Process ids and connections; None once nobody waits there.
        self.is_ending = False
        # A signal's handler writes to one end, which wakes the loop that waits at the other.
        self.wakeup, self.waker = socket.socketpair()
        self.wakeup.setblocking(False)
        self.waker.setblocking(False)

    def run(self):
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.end)
        # Collections would touch, and so copy, every page that parent and child share.
        gc.collect()
        gc.freeze()
        while not self.is_ending or self.arriving or self.children:
            self.step()

    def end(self, *_):
        self.is_ending = True

    def step(self):
        for source in self.wait():
            if source is self.listener:
                self.accept()
            elif source is self.wakeup:
                source.recv(4096)
            elif source in self.arriving:
                self.read(source)
            else:
                self.hang_up(source)
        self.reap()

    def wait(self):
        """Returns what can be read."""
        waited_for = [self.wakeup, *self.arriving, *filter(None, self.children.values())]
        if not self.is_ending and len(self.arriving) + len(self.children) < MAX_CHILDREN:
            waited_for.append(self.listener)
        with selectors.PollSelector() as selector:
            for source in waited_for:
                selector.register(source, selectors.EVENT_READ)
            return [key.fileobj for key, _ in selector.select()]

    def accept(self):
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return  # Gone again.
        connection.setblocking(False)
        self.arriving[connection] = bytearray()

    def read(self, connection):
        data = self.arriving[connection]
        request = None
        try:
            more = connection.recv(1 << 16)
            data += more
            request = parse_request(data)
            if request is None and more and len(data) < MAX_REQUEST_SIZE:
                return
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            print(f"fork.py: {error}", file=sys.stderr)
        del self.arriving[connection]
        if request is None:
            connection.close()
        else:
            self.fork(connection, *request)

    def fork(self, connection, env, body):
        try:
            pid = os.fork()
        except OSError as error:
            print(f"fork.py: cannot fork: {error}", file=sys.stderr)
            connection.close()
            return
        if pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                self.become_child()
                send(connection, run(self.application, env, body))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                # Not by way of the parent's atexit handlers and finally clauses.
                os._exit(code)
        try:
            os.setpgid(pid, pid)  # The child does the same: its group is there whoever is first.
        except OSError:
            pass  # It has ended.
        self.children[pid] = connection

    def become_child(self):
        """Lets go of what is the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        others = [*self.arriving, *filter(None, self.children.values())]
        for source in [self.listener, self.wakeup, self.waker, *others]:
            source.close()

    def hang_up(self, connection):
        """The request was read to its end: what can be read then is a hang-up."""
        for pid, other in self.children.items():
            if other is connection:
                kill_group(pid)
                self.children[pid] = None
        connection.close()

    def reap(self):
        for pid, connection in list(self.children.items()):
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, pid, options) is None:
                continue
            # What it started dies with it, as long as its number cannot be another's.
            kill_group(pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            del self.children[pid]
            if connection is None:
                continue
            connection.close()
            if status < 0:
                print(f"fork.py: process {pid} was killed by signal {-status}", file=sys.stderr)
            elif status > 0:
                print(f"fork.py: process {pid} ended with status {status}", file=sys.stderr)


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass  # It is empty.


def send(connection, answer):
    """Writes the whole answer, unless nobody waits for it any more."""
    connection.setblocking(True)
    try:
        connection.sendall(answer)
    except OSError:
        pass


def serve_as_worker(listener, application):
    """Answers requests one after another."""
    ending = []
    wakeup, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    own_environment = dict(os.environ)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        while not ending:
            selector.select()
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            with connection:
                request = read_request(connection)
                if request is not None:
                    os.environ.clear()
                    os.environ.update(own_environment)
                    send(connection, run(application, *request))


def read_request(connection):
    """Reads a whole request; None if it is none, or the peer hung up first."""
    connection.setblocking(True)
    data = bytearray()
    request = None
    try:
        while request is None and len(data) < MAX_REQUEST_SIZE:
            more = connection.recv(1 << 16)
            if not more:
                break
            data += more
            request = parse_request(data)
    except (OSError, ValueError) as error:
        print(f"fork.py: {error}", file=sys.stderr)
    return request


def take_listener():
    """Takes the socket from descriptor 0, which becomes what a program may read from."""
    try:
        listener = socket.socket(fileno=os.dup(0))
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError("it does not listen")
    except OSError as error:
        sys.exit(f"fork.py: descriptor 0 is no listening socket: {error}")
    listener.setblocking(False)
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    return listener


def load(path):
    """Runs the application's file and returns its function."""
    sys.modules["ws_shim"] = sys.modules[__name__]
    sys.path[0] = os.path.dirname(path)
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    spec = importlib.util.spec_from_file_location("application", path)
    module = sys.modules["application"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What is buffered now would be part of every answer.
    sys.stdout.flush()
    return module.answer


def main(arguments):
    is_worker = arguments[:1] == ["--worker"]
    if len(arguments) != is_worker + 1:
        sys.exit("usage: python3 fork.py [--worker] APPLICATION.py")
    listener = take_listener()
    application = load(os.path.abspath(arguments[-1]))
    if is_worker:
        serve_as_worker(listener, application)
    else:
        ForkServer(listener, application).run()


if __name__ == "__main__":
    main(sys.argv[1:])
