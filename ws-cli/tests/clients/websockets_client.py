"""Python's websockets against `ws serve -- cat`. Run by `cargo xtask clients`.

WS_URL names the server, WS_BIN is its binary for the client verbs, WS_CONTROL_SOCKET its control
socket, WS_GLOBAL_FIFO the FIFO whose records go to everybody; WS__COMPRESSION__ENABLED is part of
its configuration.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

URL = os.environ["WS_URL"]
COMPRESSION = os.environ.get("WS__COMPRESSION__ENABLED") == "true"
UNICODE = "Grüße, мир, 世界, \N{GRINNING FACE}\N{COMBINING ACUTE ACCENT}"


def open_connection(**options):
    # The larger limit is for what comes back; proxies of the environment are none of our business.
    return connect(URL, max_size=4 << 20, proxy=None, **options)


async def text_comes_back():
    async with open_connection() as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def unicode_comes_back():
    async with open_connection() as ws:
        await ws.send(UNICODE)
        assert await ws.recv() == UNICODE


async def bytes_that_are_not_utf8_come_back_as_binary():
    async with open_connection() as ws:
        payload = bytes(range(256))
        await ws.send(payload)
        assert await ws.recv() == payload


async def fragments_are_one_message():
    async with open_connection() as ws:
        # The cuts are between bytes, not between characters.
        octets = UNICODE.encode()
        await ws.send([octets[i : i + 1] for i in range(len(octets))], text=True)
        assert await ws.recv() == UNICODE


async def megabyte_comes_back():
    async with open_connection() as ws:
        text = "0123456789abcdef" * (1 << 16)
        assert len(text) == 1 << 20
        await ws.send(text)
        assert await ws.recv() == text


async def more_than_a_megabyte_is_too_big():
    async with open_connection() as ws:
        try:
            await ws.send("x" * ((1 << 20) + 1))
            await ws.recv()
        except ConnectionClosed:
            assert ws.close_code == 1009, ws.close_code
        else:
            raise AssertionError("the message was taken")


async def ping_is_answered():
    async with open_connection() as ws:
        latency = await (await ws.ping(b"are you there"))
        assert latency < 5, latency


async def word_ping_is_answered_without_the_application():
    async with open_connection() as ws:
        await ws.send("ping")
        assert await ws.recv() == "pong"


async def close_code_comes_back():
    for code in (1000, 4001):
        ws = await open_connection()
        await ws.close(code, "bye")
        assert ws.close_code == code, ws.close_code


async def offer_of_compression_is_declined():
    async with open_connection(compression="deflate") as ws:
        assert ws.request.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        assert ws.protocol.extensions == []


async def offer_of_compression_is_accepted():
    async with open_connection(compression="deflate") as ws:
        agreed = ws.response.headers["Sec-WebSocket-Extensions"]
        assert agreed.startswith("permessage-deflate"), agreed
        assert "no_context_takeover" not in agreed, agreed
        assert len(ws.protocol.extensions) == 1
        for i in range(50):
            text = f"{i} " + UNICODE * (i + 1)
            await ws.send(text)
            assert await ws.recv() == text


async def small_windows_and_no_memory_are_enough():
    for bits in range(9, 16):
        for forgets in (False, True):
            factory = ClientPerMessageDeflateFactory(
                server_no_context_takeover=forgets,
                client_no_context_takeover=forgets,
                server_max_window_bits=bits,
                client_max_window_bits=bits,
            )
            async with open_connection(extensions=[factory], compression=None) as ws:
                assert len(ws.protocol.extensions) == 1
                for text in ("0123456789abcdef" * 5000, UNICODE * 700, "short"):
                    await ws.send(text)
                    assert await ws.recv() == text


async def unknown_subprotocol_is_not_chosen():
    async with open_connection(subprotocols=["nonsense"]) as ws:
        assert ws.subprotocol is None


async def session_is_kept_by_the_cookie():
    async with open_connection() as ws:
        cookie = ws.response.headers["Set-Cookie"]
        assert cookie.startswith("ws_session="), cookie
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie, cookie
    pair = cookie.split(";")[0]
    async with open_connection(additional_headers={"Cookie": pair}) as ws:
        assert "Set-Cookie" not in ws.response.headers


async def foreign_origin_is_forbidden():
    try:
        await open_connection(origin="https://evil.example")
    except InvalidStatus as error:
        assert error.response.status_code == 403, error
    else:
        raise AssertionError("the handshake was accepted")


async def replies_are_in_order():
    async with open_connection() as ws:
        messages = [f"message {i}" for i in range(50)]
        for message in messages:
            await ws.send(message)
        assert [await ws.recv() for _ in messages] == messages


async def connections_get_their_own_replies():
    async def talk(name):
        async with open_connection() as ws:
            for i in range(5):
                await ws.send(f"{name} {i}")
                assert await ws.recv() == f"{name} {i}"

    await asyncio.gather(*(talk(name) for name in range(20)))


async def push_by_the_client_verb_arrives():
    async with open_connection() as one, open_connection() as other:
        send = await asyncio.create_subprocess_exec(
            os.environ["WS_BIN"], "send", "--all", UNICODE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await send.communicate()
        assert send.returncode == 0, send.returncode
        assert b"2" in output, output
        assert await one.recv() == UNICODE
        assert await other.recv() == UNICODE


async def push_by_the_fifo_arrives():
    async with open_connection() as ws:
        with open(os.environ["WS_GLOBAL_FIFO"], "w", encoding="utf-8") as fifo:
            fifo.write(f"{UNICODE}\n")
        assert await ws.recv() == UNICODE


async def main():
    compression = [offer_of_compression_is_declined]
    if COMPRESSION:
        compression = [offer_of_compression_is_accepted, small_windows_and_no_memory_are_enough]
    checks = [
        text_comes_back,
        unicode_comes_back,
        bytes_that_are_not_utf8_come_back_as_binary,
        fragments_are_one_message,
        megabyte_comes_back,
        more_than_a_megabyte_is_too_big,
        ping_is_answered,
        word_ping_is_answered_without_the_application,
        close_code_comes_back,
        *compression,
        unknown_subprotocol_is_not_chosen,
        session_is_kept_by_the_cookie,
        foreign_origin_is_forbidden,
        replies_are_in_order,
        connections_get_their_own_replies,
        push_by_the_client_verb_arrives,
        push_by_the_fifo_arrives,
    ]
    failed = 0
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            await asyncio.wait_for(check(), 20)
            print(f"  ok {name}", flush=True)
        except Exception as error:  # whatever it is, the other checks go on
            print(f"  FAILED {name}: {type(error).__name__}: {error}"[:300], flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
