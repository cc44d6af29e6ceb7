import importlib.util
import pathlib
import unittest

path = pathlib.Path(__file__).parent.parent / "fork.py"
spec = importlib.util.spec_from_file_location("ws_shim", path)
shim = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shim)

REQUEST = b"35:CONTENT_LENGTH\x003\0REQUEST_URI\0/t\xc3\xbc,\0,a\0b"


class ParseRequest(unittest.TestCase):
    def test_takes_variables_and_body_apart(self):
        env, body = shim.parse_request(REQUEST)
        self.assertEqual(env, {"CONTENT_LENGTH": "3", "REQUEST_URI": "/tü,"})
        self.assertEqual(body, b"a\0b")

    def test_waits_for_what_has_to_come(self):
        for end in range(len(REQUEST)):
            self.assertIsNone(shim.parse_request(REQUEST[:end]), end)

    def test_ignores_what_follows(self):
        self.assertEqual(shim.parse_request(REQUEST + b"more"), shim.parse_request(REQUEST))

    def test_keeps_bytes_that_are_not_utf_8(self):
        env, _ = shim.parse_request(b"21:CONTENT_LENGTH\x000\0A\0\xff\0,")
        self.assertEqual(env["A"].encode("utf-8", "surrogateescape"), b"\xff")

    def test_refuses_what_is_no_request(self):
        for data in [
            b"x",
            b":",
            b"-1:,",
            b"1234567890",
            b"3:abc,",
            b"4:A\0B\0,",
            b"17:CONTENT_LENGTH\x000\0;",
            b"18:CONTENT_LENGTH\0-1\0,",
            b"16:CONTENT_LENGTH\0\0,",
        ]:
            with self.assertRaises(ValueError, msg=data):
                shim.parse_request(data)


class BuildAnswer(unittest.TestCase):
    def test_announces_the_length_in_bytes(self):
        answer = shim.build_answer(["X-WS-Type: text"], "ü".encode())
        self.assertEqual(answer, b"X-WS-Type: text\r\nContent-Length: 2\r\n\r\n\xc3\xbc")

    def test_may_be_empty(self):
        self.assertEqual(shim.build_answer([], b""), b"Content-Length: 0\r\n\r\n")


class Header(unittest.TestCase):
    def test_refuses_what_is_no_header(self):
        for name, value in [("", "a"), ("A B", "a"), ("A:", "a"), ("A\n", "a"), ("A", "a\rb")]:
            with self.assertRaises(ValueError):
                shim.header(name, value)


if __name__ == "__main__":
    unittest.main()
