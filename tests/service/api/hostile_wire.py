"""Hostile requests that want two readers to disagree, or one to break: framing and bodies."""

from collections.abc import Iterator

from tests.service.api.hostile import CHAT, V1, Attack, Credentials, raw


def framing(keys: Credentials) -> Iterator[Attack]:
    """Two readers of one stream of bytes that disagree where a request ends."""
    hidden = f"GET {V1}/status HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    start = f"POST {V1}/keys HTTP/1.1\r\nHost: test\r\n"

    def framed(name: str, headers: str, body: bytes = b"") -> Attack:
        return Attack("framing", name, start.encode() + headers.encode("latin-1") + b"\r\n" + body)

    size = len(hidden)
    yield framed(
        "length and chunks",
        f"Content-Length: {size + 5}\r\nTransfer-Encoding: chunked\r\n",
        b"0\r\n\r\n" + hidden,
    )
    yield framed(
        "chunks and length",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"5c\r\n" + hidden + b"\r\n0\r\n\r\n",
    )
    yield framed("two lengths", f"Content-Length: 0\r\nContent-Length: {size}\r\n", hidden)
    yield framed("a list of lengths", f"Content-Length: 0, {size}\r\n", hidden)
    for text in (
        "-1",
        "+5",
        "0x10",
        "1e3",
        "5 5",
        "9" * 40,
        "\u0665".encode().decode("latin-1"),
        "",
    ):
        yield framed(f"length {text[:6]!r}", f"Content-Length: {text}\r\n", hidden)
    for text in (
        "xchunked",
        "identity, chunked",
        "chunked, identity",
        "chunked\r\n X: y",
        " chunked\x0b",
    ):
        yield framed(f"encoding {text!r}", f"Transfer-Encoding: {text}\r\n", b"0\r\n\r\n" + hidden)
    yield framed(
        "two encodings",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"0\r\n\r\n" + hidden,
    )
    for text in (b"-1", b"ffffffffffffffffff", b"5;ext=\x00", b"0x5", b"", b"5\n"):
        body = text + b"\r\nhello\r\n0\r\n\r\n"
        yield framed(f"chunk size {text!r}", "Transfer-Encoding: chunked\r\n", body)
    # The HTTP parser takes trailers for headers: a key in one counts for what it is worth.
    body = b'1d\r\n{"name":"x","role":"admin"}  \r\n0\r\n'
    for name, key in (("a viewer's", keys.roles["viewer"]), ("a dead", keys.dead["revoked"])):
        trailer = f"Authorization: Bearer {key}\r\n\r\n".encode()
        yield framed(f"{name} key in a trailer", "Transfer-Encoding: chunked\r\n", body + trailer)
    sent = f"Authorization: Bearer {keys.roles['viewer']}\r\nTransfer-Encoding: chunked\r\n"
    trailer = f"Authorization: Bearer {keys.owner}\r\n\r\n".encode()
    yield framed("another key in a trailer", sent, body + trailer)
    bearer = f"Bearer {keys.owner}"
    yield framed("a space before the colon", f"Authorization : {bearer}\r\n")
    yield framed("a folded header", f"X-A: b\r\n Authorization: {bearer}\r\n")
    yield framed("a NUL in a header's name", f"Author\x00ization: {bearer}\r\n")
    yield framed("a newline alone", f"X-A: b\nAuthorization_: {bearer}\r\n")
    yield framed("a return alone", f"X-A: b\rAuthorization: {bearer}\r\n")
    yield framed("an underscore", f"HTTP_AUTHORIZATION: {bearer}\r\n")
    yield framed("ten thousand headers", "".join(f"X-{n}: y\r\n" for n in range(10_000)))
    yield framed("a header of a megabyte", f"X-A: {'y' * (1 << 20)}\r\n")
    pipelined = f"{start}Content-Length: 0\r\n\r\n".encode() + hidden * 5
    yield Attack("framing", "five more behind it", pipelined)
    for name, line in {
        "an old version": f"GET {V1}/status HTTP/0.9\r\n\r\n",
        "no version": f"GET {V1}/status\r\n\r\n",
        "a version that is none": f"GET {V1}/status HTTP/9.9\r\nHost: x\r\n\r\n",
        "no host": f"GET {V1}/status HTTP/1.1\r\n\r\n",
        "two hosts": f"GET {V1}/status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "a line before": f"\r\n\r\nGET {V1}/status HTTP/1.1\r\nHost: x\r\n\r\n",
        "spaces": f"GET   {V1}/status   HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "upgrade to h2c": f"GET {V1}/status HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "upgrade to a websocket": f"GET {V1}/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "noise": "\x00\x01\x02\x7f\r\n\r\n",
    }.items():
        yield Attack("framing", name, line.encode("latin-1"))


def bodies(keys: Credentials) -> Iterator[Attack]:
    infer, author, admin = (keys.roles[role] for role in ("infer", "author", "admin"))
    deep = {
        "lists": b"[" * 60_000 + b"]" * 60_000,
        "objects": b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
        "lists that do not end": b"[" * 60_000,
        "lists in a list": b"[" + b"[" * 200 + b"]" * 200 + b"]",
    }
    others = {
        "a number of 5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
        "an exponent": b'{"name": 1e999999}',
        "NaN": b'{"name": NaN}',
        "a lone surrogate": b'{"name": "\\ud800", "role": "infer"}',
        "not UTF-8": b'{"name": "\xff\xfe"}',
        "UTF-16": '{"name": "x"}'.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf{}",
        "a NUL": b"\x00",
        "NULs": b"\x00" * 10_000,
        "a gzip": b"\x1f\x8b\x08\x00",
        "a pickle": b"\x80\x04cos\nsystem\n.",
        "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        "a form": b"name=x&role=admin",
        "a key given twice": b'{"name": "a b", "role": "infer", "name": "c d"}',
        "__proto__": b'{"__proto__": {"role": "admin"}, "name": "x"}',
        "a role in a list": b'{"name": "x", "role": ["infer", "admin"]}',
        "a hash of its own": b'{"name": "x", "role": "infer", "hash": "0", "id": "01234567"}',
    }
    no_json = ("not UTF-8", "NULs", "a gzip", "a pickle", "XML", "a form")
    for name, body in (deep | others).items():
        for path in ("policies", "monitors", "edits", "artifacts", "policies/formal/set"):
            data = raw("POST", f"{V1}/{path}", [], body, author)
            yield Attack("bodies", f"{name} to {path}", data)
        yield Attack("bodies", f"{name} to keys", raw("POST", f"{V1}/keys", [], body, admin))
    for name, body in (deep | {n: others[n] for n in no_json}).items():
        yield Attack("bodies", f"{name} to chat", raw("POST", CHAT, [], body, infer))
    large = b'{"name": "' + b"x" * (9 << 20) + b'"}'
    for path, key in ((CHAT, infer), ("/tokenize", infer), (f"{V1}/keys", admin)):
        yield Attack("bodies", f"9 MiB to {path}", raw("POST", path, [], large, key))
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for path, key in ((CHAT, infer), (f"{V1}/policies", author)):
        head = raw("POST", path, [("Transfer-Encoding", "chunked")], None, key)
        yield Attack("bodies", f"9 MiB in chunks to {path}", head + chunk * 144 + b"0\r\n\r\n")
    announced = raw("POST", CHAT, [("Content-Length", str(1 << 40))], b"{}", infer)
    yield Attack("bodies", "a terabyte announced", announced)
