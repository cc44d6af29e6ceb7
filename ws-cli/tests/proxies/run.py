"""Real reverse proxies in front of `ws serve`, with the configurations of docs/proxies.

WS_BIN is the server's binary. nginx, HAProxy and Apache are taken as they are installed; one that
is not is skipped aloud, or with CI=true a failure. Run by `cargo xtask proxies`.

Everything listens on free loopback ports and lives in a temporary directory. The configurations are
the shipped ones: addresses and times are replaced, and it is an error if there is nothing to
replace.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import sys
import tempfile

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

WS = str(pathlib.Path(os.environ["WS_BIN"]).resolve())
ROOT = pathlib.Path(__file__).resolve().parents[3]
CONFIGURATIONS = ROOT / "docs" / "proxies"

# What a browser calls the public address; only the test's client knows where it really is.
HOST = "chat.example"
# The time after which a proxy cuts an idle tunnel, for the shipped 60 s.
IDLE_SECONDS = 3
# Long enough for every proxy to have cut an idle tunnel.
IDLE_TEST_SECONDS = IDLE_SECONDS * 1.5 + 1
PATIENCE = 20

# Apache does not serve as root, and asks as whom instead.
APACHE_AS = [] if os.geteuid() else ["-c", "User www-data", "-c", "Group www-data"]

# Makes a site with the application that the bridge for CarbonPHP is tested with.
MAKE_SITE = ROOT / "ws-ipc" / "shims" / "tests" / "carbonphp" / "make-site.php"

# Gives back the message, below /uri the target of the handshake, and below /leave closes.
APPLICATION = """#!/bin/sh
case $REQUEST_URI in
/uri*) printf '\\n%s' "$REQUEST_URI" ;;
/headers*) printf '\\n%s %s' "$HTTP_X_FORWARDED_PROTO" "$HTTP_X_FORWARDED_FOR" ;;
/who*) printf '\\n%s' "$REMOTE_ADDR${REMOTE_PORT:+ $REMOTE_PORT}" ;;
/leave*) printf 'X-WS-Close: 4001 see you\\n\\n' ;;
*) printf 'X-WS-Type: %s\\n\\n' "$WS_MESSAGE_TYPE"; exec cat ;;
esac
"""


class NotHere(Exception):
    """A check does not concern this proxy."""


class Proxy:
    """How one proxy is configured and started."""

    def __init__(
        self, name, program, configuration, command, replace, paths, reload=None, says="http"
    ):
        self.name = name
        self.program = program
        self.configuration = configuration
        self.command = command
        # Text of the configuration and what stands there in the test.
        self.replace = replace
        # Targets that arrive byte for byte.
        self.paths = paths
        # What makes the running program read its configuration anew.
        self.reload = reload
        # How it says who the visitor is: "http", by headers, or "proxy", by the PROXY protocol.
        self.says = says

    def find(self):
        folders = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        return shutil.which(self.program, path=folders)


def nginx(unix=False):
    backend = "unix:{backend}" if unix else "{backend}"
    return Proxy(
        "nginx over a Unix socket" if unix else "nginx",
        "nginx",
        "nginx.conf",
        ["-p", "{dir}", "-e", "stderr", "-c", "{file}", "-g", "daemon off;"],
        {
            "127.0.0.1:8888": backend,
            "listen 8080": "listen {front}",
            "proxy_read_timeout 60s": "proxy_read_timeout {idle}s",
        },
        ["/uri/a%20b/%C3%A9%2Fz/../x//y?q=1%202&r=%E2%82%AC+&s=%2F", "/uri?", "/uri;v=1"],
        reload=signal.SIGHUP,
    )


def haproxy(unix=False):
    backend = "unix@{backend}" if unix else "{backend}"
    return Proxy(
        "HAProxy over a Unix socket" if unix else "HAProxy",
        "haproxy",
        "haproxy.cfg",
        ["-db", "-f", "{file}"],
        {
            "127.0.0.1:8888": backend,
            "bind :8080": "bind {front}",
            "timeout tunnel 60s": "timeout tunnel {idle}s",
        },
        ["/uri/a%20b/%C3%A9%2Fz/../x//y?q=1%202&r=%E2%82%AC+&s=%2F", "/uri?", "/uri;v=1"],
    )


def haproxy_in_tcp(unix=False, version=2):
    backend = "unix@{backend}" if unix else "{backend}"
    return Proxy(
        f"HAProxy, PROXY protocol {version}" + (" over a Unix socket" if unix else ""),
        "haproxy",
        "haproxy-proxy.cfg",
        ["-db", "-f", "{file}"],
        {
            "    server ws1 127.0.0.1:8888 send-proxy-v2": f"    server ws1 {backend} "
            + ("send-proxy-v2" if version == 2 else "send-proxy"),
            "bind :8080": "bind {front}",
            "timeout tunnel 60s": "timeout tunnel {idle}s",
        },
        ["/uri/a%20b/%C3%A9%2Fz/../x//y?q=1%202&r=%E2%82%AC+&s=%2F", "/uri?", "/uri;v=1"],
        says="proxy",
    )


def haproxy_in_tcp_v1(unix=False):
    return haproxy_in_tcp(unix, version=1)


def apache(unix=False):
    backend = "unix:{backend}|http://localhost/" if unix else "http://{backend}/"
    return Proxy(
        "Apache over a Unix socket" if unix else "Apache",
        "apache2",
        "apache.conf",
        ["-d", "{dir}", "-f", "{file}", "-D", "FOREGROUND", *APACHE_AS],
        {
            "http://127.0.0.1:8888/": backend,
            "Listen 8080": "Listen {front}",
            "*:8080": "{front}",
            "Timeout 60": "Timeout {idle}",
        },
        ["/uri/a%20b/%C3%A9%2Fz/../x//y?q=1%202&r=%E2%82%AC+&s=%2F", "/uri?", "/uri;v=1"],
        reload=signal.SIGUSR1,
    )


# The rule needs a site around it: this one.
SITE = """
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule proxy_wstunnel_module /usr/lib/apache2/modules/mod_proxy_wstunnel.so
DefaultRuntimeDir .
PidFile apache.pid
ErrorLog error.log
ServerName localhost
Listen {front}
Timeout {idle}
DocumentRoot {dir}/site
<Directory {dir}/site>
    AllowOverride FileInfo
</Directory>
"""


# What a site of PHP has besides: every request that is for no file goes to index.php.
PHP_SITE = """
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
<Directory {dir}/site>
    FallbackResource /index.php
    <FilesMatch "\\.php$">
        SetHandler "proxy:unix:{dir}/php.sock|fcgi://localhost"
    </FilesMatch>
</Directory>
"""

PHP_FPM = """
[global]
error_log = {dir}/fpm.log
daemonize = no
[www]
listen = {dir}/php.sock
listen.mode = 0666
pm = static
pm.max_children = 2
"""


def php_fpm():
    """php-fpm, under whatever version's name."""
    found = sorted(pathlib.Path("/usr/sbin").glob("php-fpm*"))
    return str(found[-1]) if found else None


def htaccess():
    return Proxy(
        "Apache by .htaccess",
        "apache2",
        "htaccess",
        ["-d", "{dir}", "-f", "{dir}/site.conf", "-D", "FOREGROUND", *APACHE_AS],
        {"127.0.0.1:8888": "{backend}"},
        ["/uri/a%20b/%C3%A9?q=1%202&r=%E2%82%AC+&s=%2F", "/uri;v=1"],
    )


PROXIES = [nginx, haproxy, haproxy_in_tcp, haproxy_in_tcp_v1, apache, htaccess]
OVER_UNIX = [nginx, haproxy, haproxy_in_tcp, apache]
BEFORE_TLS = [haproxy_in_tcp, haproxy_in_tcp_v1]


class Stack:
    """A server and a proxy in front of it, in a directory of their own."""

    def __init__(self, proxy, unix=False, ping="1s", tls=False):
        self.proxy = proxy
        self.unix = unix
        self.tls = tls
        self.ping = ping
        self.processes = []

    async def __aenter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="ws-proxies-", ignore_cleanup_errors=True)
        self.dir = pathlib.Path(self.folder.name)
        # What a proxy that drops root's rights still has to read.
        self.dir.chmod(0o755)
        try:
            backend = await self.start_server()
            await self.start_proxy(backend)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        for process in reversed(self.processes):
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), PATIENCE)
                except asyncio.TimeoutError:
                    process.kill()
                    await process.wait()
        self.folder.cleanup()

    async def start_server(self):
        application = self.dir / "application.sh"
        application.write_text(APPLICATION)
        application.chmod(0o755)
        (self.dir / "ws.toml").touch()
        proxied = "+proxy" if self.proxy.says == "proxy" else ""
        scheme = ("wss" if self.tls else "ws") + proxied
        address = f"unix{proxied}:{self.dir}/ws.sock" if self.unix else f"{scheme}://127.0.0.1:0"
        environment = {name: value for name, value in os.environ.items() if name[:3] != "WS_"}
        environment["WS__APP__OUTPUT"] = "cgi"
        # The last address that is not this one is the visitor's: a spoofed one, to see that.
        environment["WS__SERVER__PROXY__TRUSTED"] = "127.0.0.1,unix"
        # The proxy may run as somebody else.
        environment["WS__SERVER__UNIX_MODE"] = "0666"
        environment["WS__SERVER__TLS__SELF_SIGNED"] = "true"
        environment["WS__LIMITS__PING_INTERVAL"] = self.ping
        environment["WS__LIMITS__MAX_MESSAGE_SIZE"] = "64KiB"
        self.server = await asyncio.create_subprocess_exec(
            *[WS, "serve", "--listen", address, "--", str(application)],
            cwd=self.dir,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self.dir / "server.log").open("wb"),
        )
        self.processes.append(self.server)
        line = (await asyncio.wait_for(self.server.stdout.readline(), PATIENCE)).decode().strip()
        if not line:
            raise AssertionError(f"the server did not start: {self.log('server.log')}")
        if self.unix:
            return f"{self.dir}/ws.sock"
        return line.removeprefix(f"{scheme}://").removesuffix("/")

    async def start_proxy(self, backend):
        program = self.proxy.find()
        for _ in range(5):
            self.port = free_port()
            words = {
                "dir": self.dir,
                "file": self.dir / self.proxy.configuration,
                "front": f"127.0.0.1:{self.port}",
                "backend": backend,
                "idle": IDLE_SECONDS,
            }
            text = (CONFIGURATIONS / self.proxy.configuration).read_text()
            for old, new in self.proxy.replace.items():
                assert old in text, f"no {old!r} in {self.proxy.configuration}"
                text = text.replace(old, new.format(**words))
            words["file"].write_text(text)
            if self.proxy.configuration == "htaccess":
                (self.dir / "site").mkdir(exist_ok=True)
                (self.dir / "site" / ".htaccess").write_text(text)
                (self.dir / "site" / "page.html").write_text("a page\n")
                (self.dir / "site.conf").write_text(self.site().format(**words))
            process = await asyncio.create_subprocess_exec(
                *[program, *(word.format(**words) for word in self.proxy.command)],
                cwd=self.dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=(self.dir / "proxy.log").open("ab"),
                stderr=asyncio.subprocess.STDOUT,
            )
            self.processes.append(process)
            if await self.is_listening(process):
                self.process = process
                return
        raise AssertionError(f"{self.proxy.name} did not start: {self.log('proxy.log')}")

    def site(self):
        """The configuration around an .htaccess."""
        return SITE

    async def is_listening(self, process):
        """Whether the proxy came up. The port was free a moment ago, but it was not held."""
        for _ in range(PATIENCE * 20):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return True
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), 0.05)
                return False
        return False

    def log(self, name):
        with contextlib.suppress(OSError):
            return (self.dir / name).read_text(errors="replace")[-3000:]
        return ""

    def connect(self, path="/", **options):
        """A client that asks for the public host. Only the server sends pings."""
        if self.tls:
            # Nobody else has the port, so it does not matter who has made the certificate.
            options["ssl"] = ssl.create_default_context()
            options["ssl"].check_hostname = False
            options["ssl"].verify_mode = ssl.CERT_NONE
        return connect(
            f"{'wss' if self.tls else 'ws'}://{HOST}:{self.port}{path}",
            host="127.0.0.1",
            port=self.port,
            proxy=None,
            ping_interval=None,
            compression=None,
            max_size=4 << 20,
            **options,
        )

    async def ask(self, path, message="?", **options):
        async with self.connect(path, **options) as ws:
            await ws.send(message)
            return await ws.recv()

    async def status(self, path, **options):
        """The status of a refusal."""
        try:
            async with self.connect(path, **options):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    async def raw(self, request):
        """Everything that comes back for these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(-1), PATIENCE)
        writer.close()
        return answer

    async def figures(self):
        """The server's counters, when nothing is under way."""
        while True:
            reader, writer = await asyncio.open_unix_connection(self.dir / "tmp" / "control.sock")
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(-1), PATIENCE)
            writer.close()
            figures = json.loads(answer.partition(b"\r\n\r\n")[2])
            if figures["connections"]["open"] == 0:
                return figures
            await asyncio.sleep(0.02)


class CarbonPhpStack(Stack):
    """An application of CarbonPHP's: its pages by php-fpm, its messages by `ws serve --carbonphp`."""

    def site(self):
        return SITE + PHP_SITE

    async def start_server(self):
        site = self.dir / "site"
        await self.run("php", str(MAKE_SITE), str(site))
        vendor = site / "vendor"
        if vendor.is_symlink():
            # Where it lies, Apache's user need not get to.
            original = vendor.resolve()
            vendor.unlink()
            shutil.copytree(original, vendor)
        for name in ("tmp", "tmp/sessions"):
            (site / name).mkdir(mode=0o755, exist_ok=True)
        as_whom = {}
        if not os.geteuid():
            # The two lines of the documentation: FIFOs for the group of the web server.
            as_whom = {"WS__FIFO__GROUP": "www-data"}
            shutil.chown(site / "tmp" / "sessions", "www-data", "www-data")
        self.environment = {name: value for name, value in os.environ.items() if name[:3] != "WS_"}
        self.environment |= {"WS__SERVER__PROXY__TRUSTED": "127.0.0.1", **as_whom}
        await self.start_fpm()
        return await self.serve("127.0.0.1:0")

    async def serve(self, listen):
        self.server = await asyncio.create_subprocess_exec(
            *[WS, "serve", "--carbonphp", "index.php", "--listen", listen],
            cwd=self.dir / "site",
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self.dir / "server.log").open("ab"),
        )
        self.processes.append(self.server)
        line = (await asyncio.wait_for(self.server.stdout.readline(), PATIENCE)).decode().strip()
        if not line:
            raise AssertionError(f"the server did not start: {self.log('server.log')}")
        self.backend = line.removeprefix("ws://").removesuffix("/")
        return self.backend

    async def start_fpm(self):
        configuration = PHP_FPM.format(dir=self.dir)
        if not os.geteuid():
            configuration += "user = www-data\ngroup = www-data\n"
        (self.dir / "fpm.conf").write_text(configuration)
        process = await asyncio.create_subprocess_exec(
            *[php_fpm(), "--nodaemonize", "--fpm-config", str(self.dir / "fpm.conf")],
            cwd=self.dir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=(self.dir / "fpm-output.log").open("ab"),
            stderr=asyncio.subprocess.STDOUT,
        )
        self.processes.append(process)
        for _ in range(PATIENCE * 20):
            if (self.dir / "php.sock").exists():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"php-fpm did not start: {self.log('fpm-output.log')}")

    async def run(self, *command):
        process = await asyncio.create_subprocess_exec(*command, cwd=self.dir)
        status = await asyncio.wait_for(process.wait(), PATIENCE)
        assert status == 0, f"{command}: {status}"

    async def page(self, path):
        """A page of the site, by Apache and php-fpm."""
        head = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nConnection: close\r\n\r\n"
        answer = (await self.raw(head.encode())).decode()
        assert answer.split(" ")[1] == "200", answer[:500]
        return answer.partition("\r\n\r\n")[2]

    def enter(self, user, **options):
        """A browser of this user's."""
        origin = f"http://{HOST}:{self.port}"
        headers = {"Cookie": f"user={user}"}
        return self.connect("/", origin=origin, additional_headers=headers, **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def handshake(stack, version=13, path="/"):
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {HOST}:{stack.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {version}",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "\r\n",
    ]
    return "\r\n".join(lines).encode()


async def text_and_binary_come_back(stack):
    async with stack.connect() as ws:
        for message in ["Grüße, 世界", bytes(range(256)) * 200, "", "x" * 50_000]:
            await ws.send(message)
            if message:
                assert await ws.recv() == message


async def page_of_the_public_host_is_of_the_same_origin(stack):
    origin = f"{'https' if stack.tls else 'http'}://{HOST}:{stack.port}"
    assert await stack.ask("/", "hello", origin=origin) == "hello"


async def foreign_pages_are_refused(stack):
    foreign = ["https://evil.example", "null", f"http://{HOST}:1", f"http://{HOST}.evil.example"]
    for origin in foreign:
        status = await stack.status("/", origin=origin)
        assert status == 403, f"{origin}: {status}"


async def targets_arrive_byte_for_byte(stack):
    for path in stack.proxy.paths:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        # By hand: a client's library might write the path in another way.
        writer.write(handshake(stack, path=path))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 101 "), f"{path}: {head}"
        # The text "?", masked with zeros.
        writer.write(b"\x81\x81\0\0\0\0?")
        opcode, length = await asyncio.wait_for(reader.readexactly(2), PATIENCE)
        arrived = (await asyncio.wait_for(reader.readexactly(length), PATIENCE)).decode()
        writer.close()
        assert opcode == 0x81 and arrived == path, f"{path} arrived as {arrived}"


async def t05_request_behind_an_upgrade_is_not_a_request(stack):
    before = await stack.figures()
    answer = await stack.raw(handshake(stack) + handshake(stack, path="/admin"))
    after = await stack.figures()
    # Either the proxy waits for the 101, and the bytes are a broken frame, or it does not, and they
    # came too early.
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    accepted = difference(before, after, "sockets", "accepted")
    assert accepted == 1, f"{accepted} connections to the server"
    assert difference(before, after, "callbacks", "accepted") == 0
    closed_by = difference(before, after, "connections", "closed_by", "protocol")
    refused = difference(before, after, "sockets", "refused_by", "malformed")
    assert closed_by + refused == 1, after


async def t05_request_behind_a_refused_upgrade_gets_no_tunnel(stack):
    before = await stack.figures()
    behind = f"GET /admin HTTP/1.1\r\nHost: {HOST}:{stack.port}\r\nConnection: close\r\n\r\n"
    answer = await stack.raw(handshake(stack, version=777) + behind.encode())
    after = await stack.figures()
    # A proxy that does not look passes all of it on at once, and what comes too early is worse.
    expected = b"400" if stack.proxy.says == "proxy" else b"426"
    assert answer.split(b" ")[1] == expected, answer[:80]
    assert b" 101 " not in answer, answer
    # If the proxy takes it for a request of its own, that is one of a connection of its own.
    accepted = difference(before, after, "sockets", "accepted")
    refused = difference(before, after, "sockets", "refused")
    assert accepted == refused <= 2, after
    assert answer.count(b"HTTP/1.1 ") <= 2, answer


async def plain_request_is_not_upgraded(stack):
    head = f"GET /page.html HTTP/1.1\r\nHost: {HOST}:{stack.port}\r\nConnection: close\r\n\r\n"
    answer = await stack.raw(head.encode())
    # The rule of .htaccess lets it through to the files.
    expected = b"200" if stack.proxy.configuration == "htaccess" else b"426"
    assert answer.split(b" ")[1] == expected, answer[:80]


async def code_of_the_server_arrives(stack):
    async with stack.connect("/leave") as ws:
        await ws.send("?")
        await expect_close(ws, 4001, "see you")
    async with stack.connect() as ws:
        await ws.send("x" * 70_000)
        await expect_close(ws, 1009)


async def code_of_the_client_is_answered(stack):
    ws = await stack.connect()
    await ws.close(4002, "bye")
    assert ws.close_code == 4002, ws.close_code


async def headers_of_the_proxy_are_its_own(stack):
    if stack.proxy.configuration == "htaccess" or stack.proxy.says != "http":
        raise NotHere
    spoofed = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "gopher"}
    said = await stack.ask("/headers", additional_headers=spoofed)
    scheme, _, address = said.partition(" ")
    assert scheme == "http", said
    # Apache adds to what the client sent; the last one is its own.
    assert address.split(",")[-1].strip() == "127.0.0.1", said
    if stack.proxy.configuration != "apache.conf":
        assert address == "127.0.0.1", said


async def visitor_is_who_a_trusted_proxy_says(stack):
    if stack.proxy.configuration == "htaccess" or stack.proxy.says != "http":
        raise NotHere
    # The proxies here replace the list, or append the address that they see, which is trusted too:
    # then the one before it counts.
    spoofed = {"X-Forwarded-For": "192.0.2.1"}
    said = await stack.ask("/who", additional_headers=spoofed)
    address, *_ = said.split()
    appends = stack.proxy.configuration == "apache.conf"
    assert address == ("192.0.2.1" if appends else "127.0.0.1"), said


async def t04_visitor_is_who_the_proxy_protocol_says(stack):
    if stack.proxy.says != "proxy":
        raise NotHere
    # An address that is not the proxy's, and so not trusted: what it claims for itself is nothing.
    claims = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    for headers in [{}, claims]:
        visit = stack.connect("/who", local_addr=("127.0.0.2", 0), additional_headers=headers)
        async with visit as ws:
            _, port = ws.local_address
            await ws.send("?")
            said = await ws.recv()
        assert said == f"127.0.0.2 {port}", said


async def pings_keep_an_idle_tunnel(stack):
    async with stack.connect() as ws:
        await asyncio.sleep(IDLE_TEST_SECONDS)
        await ws.send("still here")
        assert await ws.recv() == "still here"


async def reloads_of_the_proxy_keep_tunnels(stack):
    if stack.proxy.reload is None:
        raise NotHere
    async with contextlib.AsyncExitStack() as clients:
        tunnels = [await clients.enter_async_context(stack.connect()) for _ in range(10)]
        for _ in range(3):
            stack.process.send_signal(stack.proxy.reload)
            # Nothing tells from outside when it has happened; new connections work all the while.
            for _ in range(5):
                assert await stack.ask("/", "hello") == "hello"
        for ws in tunnels:
            await ws.send("still here")
            assert await ws.recv() == "still here"


async def drain_closes_with_1001(stack):
    async with stack.connect() as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
        stack.server.send_signal(signal.SIGTERM)
        await expect_close(ws, 1001)
    status = await asyncio.wait_for(stack.server.wait(), PATIENCE)
    assert status == 0, f"the server ended with {status}"


async def without_pings_the_tunnel_is_cut(stack):
    """That the time which the pings beat is the one which was set."""
    async with stack.connect() as ws:
        try:
            async with asyncio.timeout(IDLE_TEST_SECONDS):
                await ws.recv()
        except ConnectionClosed:
            assert ws.close_code == 1006, ws.close_code
        except TimeoutError:
            raise AssertionError("the idle tunnel was not cut") from None


async def messages_are_answered_by_the_application(stack):
    async with stack.enter("7") as ws:
        for uri, expected in [("/echo/hello", "hello"), ("echo/{}", "{}"), ("ping", "pong")]:
            await ws.send(uri)
            assert await ws.recv() == expected, uri
        await ws.send("/silent")
        assert (await ws.recv()).startswith("A route was matched but did not signal"), uri


async def b09_nobody_is_connected_without_a_cookie(stack):
    assert await stack.status("/") == 401


async def visitors_have_their_own_address_and_cookie(stack):
    async with stack.enter("7", local_addr=("127.0.0.2", 0)) as ws, stack.enter("8"):
        await ws.send("/whoami")
        seen = json.loads(await ws.recv())
        assert seen["server"]["REMOTE_ADDR"] == "127.0.0.2", seen
        assert seen["server"]["HTTP_COOKIE"] == "user=7", seen


async def pages_of_the_site_are_its_own(stack):
    page = await stack.page("/")
    assert page == "" or "page" in page, page


async def a_web_request_pushes_to_one_user_and_to_all(stack):
    async with stack.enter("7") as seven, stack.enter("8") as eight:
        assert "notified" in await stack.page("/notify/7/hello")
        assert await seven.recv() == "hello"
        assert "broadcast" in await stack.page("/broadcast/everybody")
        assert await seven.recv() == "everybody"
        assert await eight.recv() == "everybody"


async def a_restart_closes_with_1001_and_browsers_come_back(stack):
    async with stack.enter("7") as ws:
        stack.server.send_signal(signal.SIGTERM)
        await expect_close(ws, 1001)
    status = await asyncio.wait_for(stack.server.wait(), PATIENCE)
    assert status == 0, f"the server ended with {status}"
    await stack.serve(stack.backend)
    async with stack.enter("7") as ws:
        assert "notified" in await stack.page("/notify/7/again")
        assert await ws.recv() == "again"


async def expect_close(ws, code, reason=None):
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                await ws.recv()
    except ConnectionClosed:
        assert ws.close_code == code, f"{ws.close_code} instead of {code}"
        assert reason is None or ws.close_reason == reason, ws.close_reason


def difference(before, after, *path):
    for key in path:
        before, after = before[key], after[key]
    return after - before


# One after another: some look at the counters.
CHECKS = [
    text_and_binary_come_back,
    page_of_the_public_host_is_of_the_same_origin,
    foreign_pages_are_refused,
    targets_arrive_byte_for_byte,
    t05_request_behind_an_upgrade_is_not_a_request,
    t05_request_behind_a_refused_upgrade_gets_no_tunnel,
    plain_request_is_not_upgraded,
    code_of_the_server_arrives,
    code_of_the_client_is_answered,
    headers_of_the_proxy_are_its_own,
    visitor_is_who_a_trusted_proxy_says,
    t04_visitor_is_who_the_proxy_protocol_says,
    pings_keep_an_idle_tunnel,
    reloads_of_the_proxy_keep_tunnels,
    drain_closes_with_1001,
]
OVER_UNIX_CHECKS = [
    text_and_binary_come_back,
    page_of_the_public_host_is_of_the_same_origin,
    foreign_pages_are_refused,
    t04_visitor_is_who_the_proxy_protocol_says,
    drain_closes_with_1001,
]
BEFORE_TLS_CHECKS = [
    text_and_binary_come_back,
    page_of_the_public_host_is_of_the_same_origin,
    foreign_pages_are_refused,
    code_of_the_server_arrives,
    t04_visitor_is_who_the_proxy_protocol_says,
    pings_keep_an_idle_tunnel,
    drain_closes_with_1001,
]


CARBONPHP_CHECKS = [
    messages_are_answered_by_the_application,
    foreign_pages_are_refused,
    b09_nobody_is_connected_without_a_cookie,
    visitors_have_their_own_address_and_cookie,
    pages_of_the_site_are_its_own,
    a_web_request_pushes_to_one_user_and_to_all,
    a_restart_closes_with_1001_and_browsers_come_back,
]


async def run(proxy, checks, make=Stack, **options):
    """The lines to print and how many of them are failures."""
    lines, failed = [], 0

    def fail(name, error):
        nonlocal failed
        lines.append(f"  FAILED {name}: {type(error).__name__}: {error}"[:1500])
        failed += 1

    try:
        async with make(proxy, **options) as stack:
            for check in checks:
                name = check.__name__.replace("_", " ")
                try:
                    await asyncio.wait_for(check(stack), 3 * PATIENCE)
                    lines.append(f"  ok {name}")
                except NotHere:
                    pass
                except Exception as error:  # whatever it is, the other checks go on
                    fail(name, error)
            if failed:
                lines += [f"  {name}:\n{stack.log(name)}" for name in ("server.log", "error.log")]
    except Exception as error:
        fail("start", error)
    return lines, failed


async def main():
    must_be_there = os.environ.get("CI") == "true"
    runs, failed = [], 0
    missing = set()
    for make in PROXIES:
        proxy = make()
        if proxy.find() is None:
            missing.add(proxy.program)
            continue
        runs.append((proxy.name, run(proxy, CHECKS)))
        cut = [without_pings_the_tunnel_is_cut]
        runs.append((f"{proxy.name}, idle", run(proxy, cut, ping="off")))
        if make in OVER_UNIX:
            over_unix = make(unix=True)
            runs.append((over_unix.name, run(over_unix, OVER_UNIX_CHECKS, unix=True)))
        if make in BEFORE_TLS:
            runs.append((f"{proxy.name}, before TLS", run(proxy, BEFORE_TLS_CHECKS, tls=True)))
    if php_fpm() is None or shutil.which("php") is None:
        missing.add("php-fpm")
    elif htaccess().find() is not None:
        behind = run(htaccess(), CARBONPHP_CHECKS, make=CarbonPhpStack)
        runs.append(("Apache by .htaccess, an application of CarbonPHP's behind", behind))
    results = await asyncio.gather(*(work for _, work in runs))
    for (name, _), (lines, failures) in zip(runs, results):
        print(f"{name}:", *lines, sep="\n")
        failed += failures
    for program in sorted(missing):
        print(f"skipped {program}: not installed")
    if missing and must_be_there:
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
