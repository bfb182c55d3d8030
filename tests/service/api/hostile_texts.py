"""Hostile requests that are whole, and say what nobody should: arguments, names, questions."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

from tests.service.api.bad_inputs import Subject, cases
from tests.service.api.hostile import CHAT, V1, Attack, Credentials, chat, packed, raw


def arguments(keys: Credentials, subject: Subject) -> Iterator[Attack]:
    """Arguments of ours in the place where the worker reads them, and fields that we own."""
    key = keys.roles["infer"]
    forged: list[object] = [
        {},
        None,
        "x",
        0,
        [],
        {"request": "0" * 32, "spans": []},
        {"spans": [[[1], [0], 1.0, ["k"]]]},
        "\u0000",
    ]
    places: list[tuple[str, ...]] = [
        ("vllm_xargs",),
        ("extra_args",),
        ("sampling_params", "extra_args"),
        ("sampling_params", "vllm_xargs"),
    ]
    routes = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/inference/v1/generate")
    for number, (value, place) in enumerate(product(forged, places)):
        argument: object = {"trimtab": value}
        for part in reversed(place):
            argument = {part: argument}
        fields: Any = argument
        path = routes[number % len(routes)]
        data = raw("POST", path, [], chat(subject, **fields), key)
        yield Attack("arguments", f"{'.'.join(place)} = {value!r} to {path}", data)
    body = chat(subject, padding=1)[:-1] + b', "extra_args": {"\\u0074rimtab": {}}}'
    yield Attack("arguments", "a name in escapes", raw("POST", CHAT, [], body, key))
    body = chat(subject, extra_args={})[:-1] + b', "extra_args": {"trimtab": {}}}'
    yield Attack("arguments", "a field given twice", raw("POST", CHAT, [], body, key))
    for name in ("request_id", "user", "model", "policy", "messages"):
        data = raw("POST", CHAT, [], chat(subject, **{name: "a\ud800"}), key)
        yield Attack("arguments", f"half of a surrogate pair as {name}", data)
    for policy in ("guard", "hidden", "asleep", "none@1", "formal@1", " formal", "formal\u0000"):
        data = raw("POST", CHAT, [], chat(subject, policy=policy), key)
        yield Attack("arguments", f"policy {policy!r}", data)
        if policy.isascii() and policy.isprintable():
            sent = [("X-Trimtab-Policy", policy.strip() + ","), ("X-Trimtab-Policy", "none")]
            data = raw("POST", CHAT, sent, chat(subject), key)
            yield Attack("arguments", f"two headers, one {policy!r}", data)
    for strength in ("1", [1], {}, True, 1e308, -1e308, 10**400, "NaN"):
        fields = {"policy": subject.policy, "strength": strength}
        data = raw("POST", CHAT, [], chat(subject, **fields), key)
        yield Attack("arguments", f"strength {str(strength)[:8]!r}", data)


TEXTS = {
    "SQL": "' OR '1'='1' --",
    "SQL that drops": "x'; DROP TABLE keys; --",
    "SQL that joins": "x' UNION SELECT hash FROM keys --",
    "a template": "{{7*7}}{{config}}",
    "an expression": "${jndi:ldap://127.0.0.1/x}#{7*7}<%= 7*7 %>",
    "a format": "%s%n{0.__class__}{self}",
    "markup": "<script>alert(1)</script>",
    "a shell": "$(id)`id`;id|id&&id",
    "a way up": "../../../etc/passwd",
    "a file": "file:///etc/passwd",
    "a NUL": "a\x00b",
    "half of a pair": "a\ud800",
    "a line": "a\r\nX-Role: admin",
    "a look-alike": "\u0430dmin",
    "zero width": "admin\u200b",
    "right to left": "\u202enimda",
    "combining": "z\u0335\u0321\u0327" * 200,
    "a long one": "x" * 100_000,
    "a number": "9" * 400,
}


def escaped(text: str) -> str:
    """Return text as a part of a path or a query."""
    return quote(text[:4000], safe="", errors="surrogatepass")


def texts(keys: Credentials) -> Iterator[Attack]:
    """Text where a name, a kind, a time or a number belongs."""
    author, admin = keys.roles["author"], keys.roles["admin"]

    def document(**changes: Any) -> dict[str, Any]:
        head = {"apiVersion": "trimtab/v1", "kind": "Policy", "metadata": {"name": "fresh"}}
        return head | {"spec": {}} | changes

    steer = {"direction": "formal", "coefficient": 1}
    for what, text in TEXTS.items():
        key = {"name": "fresh", "role": "infer"}
        for name in ("name", "role", "tenant", "expires_at", "limits", "colour"):
            body = packed(key | {name: text})
            yield Attack("texts", f"key.{name}: {what}", raw("POST", f"{V1}/keys", [], body, admin))
        bodies = {
            "apiVersion": document(apiVersion=text),
            "kind": document(kind=text),
            "metadata.name": document(metadata={"name": text}),
            "spec.mode": document(spec={"mode": text}),
            "spec.steer.direction": document(spec={"steer": [steer | {"direction": text}]}),
            "spec.steer.at": document(spec={"steer": [steer | {"at": text}]}),
            "spec.edits": document(spec={"edits": [text]}),
            "a field": document(spec={text: 1}),
        }
        for name, value in bodies.items():
            data = raw("POST", f"{V1}/policies", [], packed(value), author)
            yield Attack("texts", f"{name}: {what}", data)
        for method, path in (
            ("GET", "policies/{}"),
            ("DELETE", "policies/{}"),
            ("GET", "keys/{}"),
            ("DELETE", "keys/{}"),
            ("POST", "keys/{}/rotate"),
            ("GET", "artifacts/{}"),
            ("GET", "jobs/{}"),
            ("GET", "decisions/{}"),
            ("DELETE", "bindings/{}"),
        ):
            target = f"{V1}/{path.format(escaped(text))}"
            data = raw(method, target, [], b"{}" if method == "POST" else None, admin)
            yield Attack("texts", f"{method} {path}: {what}", data)
        if text.isprintable() and len(text) < 1000:
            headers = [("If-Match", text)]
            data = raw("DELETE", f"{V1}/policies/formal", headers, None, author)
            yield Attack("texts", f"If-Match: {what}", data)


def questions(keys: Credentials) -> Iterator[Attack]:
    """Text in a question that may be asked: the answer is that there is nothing."""
    viewer = keys.roles["viewer"]
    for what, text in TEXTS.items():
        value = escaped(text)
        for path, name in (
            ("events", "monitor"),
            ("events", "policy"),
            ("decisions", "policy"),
            ("decisions", "key"),
        ):
            data = raw("GET", f"{V1}/{path}?{name}={value}", [], None, viewer)
            yield Attack("questions", f"{path} of {name} {what}", data, "nothing")
        for path, name in (
            ("events", "since"),
            ("events", "limit"),
            ("jobs", "state"),
            ("jobs", "limit"),
            ("decisions", "before"),
            ("policies/formal", "revision"),
        ):
            data = raw("GET", f"{V1}/{path}?{name}={value}", [], None, viewer)
            yield Attack("questions", f"{path} {name}: {what}", data)


def known(subject: Subject) -> Iterator[Attack]:
    """The bad inputs of every day."""
    for case in cases(subject):
        # Over the wire a path is what it is there: characters that a client would escape too.
        if not case.is_vllms:
            headers = list(case.headers.items())
            body = case.body if case.body is not None or case.method == "GET" else b""
            if "Authorization" not in case.headers and case.path.startswith("/v1"):
                headers.append(("Authorization", f"Bearer {subject.key}"))
            sent = [(n, v) for n, v in headers if n != "Content-Type"]
            yield Attack("bad inputs", case.name, raw(case.method, case.path, sent, body))
