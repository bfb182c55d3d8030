"""Hostile requests, byte for byte: what they are, and how they are sent.

Each is sent on a connection of its own, as an attacker would: what a client library would refuse to
send is sent too. All are refused, but for questions with hostile text in them, which find nothing.
"""

import json
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from tests.service.api.bad_inputs import Subject

V1 = "/trimtab/v1"
CHAT = "/v1/chat/completions"
HOST = ("Host", "test")
WAIT_SECONDS = 20.0
PAUSE_SECONDS = 0.5
_STATUS = re.compile(rb"(?:^|\n|\})HTTP/1\.[01] (\d{3})")

Expects = Literal["refused", "nothing"]


@dataclass(frozen=True)
class Attack:
    """One request, or what looks like one.

    Attributes:
        kind: Of attack.
        name: What is tried.
        data: What is sent.
        expects: ``refused``: no 2xx. ``nothing``: a 2xx is right, and finds nothing.
    """

    kind: str
    name: str
    data: bytes
    expects: Expects = "refused"


@dataclass(frozen=True)
class Answer:
    """What came back: the status of every answer on the connection, and all of the bytes."""

    statuses: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Credentials:
    """Texts of keys: one a role, the owner's, and some that are none any more."""

    roles: Mapping[str, str]
    owner: str
    dead: Mapping[str, str]
    hashes: tuple[str, ...]


def send(port: int, attack: Attack) -> Answer:
    """Send an attack and read until the server ends the connection.

    A server that waits for more than was sent is told that no more comes.
    """
    parts: list[bytes] = []
    patience = PAUSE_SECONDS if attack.kind == "framing" else WAIT_SECONDS
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection:
        # A server that has heard enough answers and closes, whatever is still being sent.
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(attack.data)
        connection.settimeout(patience)
        with suppress(ConnectionResetError):
            while part := _received(connection):
                parts.append(part)
    data = b"".join(parts)
    return Answer(tuple(int(found) for found in _STATUS.findall(data)), data)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except TimeoutError:
        connection.settimeout(WAIT_SECONDS)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1 << 16)


def raw(
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes | None = None,
    key: str | None = None,
) -> bytes:
    """Return the bytes of a request; nothing is checked or escaped."""
    given = [HOST, ("Connection", "close"), *headers]
    if key is not None:
        given.append(("Authorization", f"Bearer {key}"))
    if body is not None and not any(n.lower() == "content-length" for n, _ in headers):
        given += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in given)
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + (body or b"")


def packed(value: object) -> bytes:
    """Return JSON."""
    return json.dumps(value).encode()


def chat(subject: Subject, **fields: Any) -> bytes:
    """Return a chat request that says nothing."""
    message = {"role": "user", "content": "hello"}
    return packed({"model": subject.served, "messages": [message], "max_tokens": 1, **fields})
