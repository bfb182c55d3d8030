"""Hostile requests that want in: paths in disguise, forged keys, roles that are too small."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

from tests.service.api.hostile import CHAT, V1, Attack, Credentials, packed, raw


def _disguised(path: str) -> Iterator[tuple[str, str]]:
    """Yield other spellings of a path, which a careless reader takes for it."""
    first, _, rest = path[1:].partition("/")
    last = path.rsplit("/", 1)[-1]
    stem = path[: -len(last)]
    yield "doubled slash", "/" + path
    yield "doubled slash inside", f"/{first}//{rest}" if rest else f"//{first}"
    yield "slash at the end", path + "/"
    yield "dot segment", f"{stem}./{last}"
    yield "dot-dot segment", f"{stem}x/../{last}"
    yield "out of an open route", f"/health/..{path}"
    yield "out of metrics", f"/metrics/..{path}"
    yield "out of the probes", f"/livez/../..{path}"
    yield "out of inference", f"/v1/models/../..{path}"
    yield "encoded dots", f"/health/%2e%2e{path}"
    yield "encoded slash", "/health%2f..%2f" + path[1:]
    yield "encoded slashes", "/" + path[1:].replace("/", "%2F") + "%2F"
    yield "doubly encoded", "/" + "".join(f"%25{ord(c):02x}" for c in path[1:])
    yield "doubly encoded dots", f"/health/%252e%252e{path}"
    yield "overlong dots", f"/health/%c0%ae%c0%ae{path}"
    yield "overlong slash", f"/health/..%c0%af{path[1:]}"
    yield "fullwidth slash", quote(path.replace("/", "\uff0f"))
    yield "fullwidth letters", stem + quote("".join(chr(ord(c) + 0xFEE0) for c in last))
    yield "upper case", path.upper()
    yield "NUL at the end", path + "%00"
    yield "NUL and an open name", path + "%00/health"
    yield "newline at the end", path + "%0a"
    yield "header in the path", path + "%0d%0aX-Role:%20admin"
    yield "space at the end", path + "%20"
    yield "parameters", path + ";role=admin"
    yield "encoded question", path + "%3fx=/health"
    yield "backslashes", path.replace("/", "\\")
    yield "encoded backslash", "/health%5c..%5c" + path[1:]
    yield "soft hyphen", stem + "%C2%AD" + last
    yield "zero width", stem + last + "%E2%80%8B"
    yield "semicolon dots", f"/health/..;{path}"
    yield "fragment", f"/nothing#{path}"
    yield "another host's", f"http://other{path}/"
    yield "star", "*"
    yield "a long way", "/health" + "/.." * 2000 + path


def paths(keys: Credentials) -> Iterator[Attack]:
    targets = (
        ("keys as a viewer", "GET", f"{V1}/keys", keys.roles["viewer"]),
        ("audit as an author", "GET", f"{V1}/audit", keys.roles["author"]),
        ("a closed route as the owner", "POST", "/collective_rpc", keys.owner),
        ("status as nobody", "GET", f"{V1}/status", None),
    )
    for what, method, path, key in targets:
        body = b"{}" if method == "POST" else None
        yield Attack("paths", f"{what}: as it is", raw(method, path, [], body, key))
        for how, target in _disguised(path):
            yield Attack("paths", f"{what}: {how}", raw(method, target, [], body, key))


def credentials(keys: Credentials) -> Iterator[Attack]:
    for place, method, path, body in (
        ("status", "GET", f"{V1}/status", None),
        ("chat", "POST", CHAT, packed({"messages": []})),
    ):
        for name, headers in _forged(keys):
            yield Attack("keys", f"{place}: {name}", raw(method, path, headers, body))
        query = quote(keys.owner)
        for name in ("key", "api_key", "access_token", "Authorization"):
            target = f"{path}?{name}={query}"
            yield Attack("keys", f"{place}: in the query as {name}", raw(method, target, [], body))


def _forged(keys: Credentials) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    owner, admin = keys.owner, keys.roles["admin"]
    prefix, identity, secret = admin.split("-")
    bearers = {
        "empty": "",
        "a wrong one": "wrong",
        "the owner's cut short": owner[:-1],
        "the owner's and more": owner + "x",
        "the owner's in other letters": owner.upper(),
        "a store key's id": f"{prefix}-{identity}",
        "a store key without a secret": f"{prefix}-{identity}-",
        "another secret": f"{prefix}-{identity}-{'0' * len(secret)}",
        "a secret cut short": admin[:-1],
        "a secret and more": admin + "0",
        "a secret in upper case": f"{prefix}-{identity}-{secret.upper()}",
        "a secret without its id": secret,
        "another's id": f"{prefix}-{keys.roles['infer'].split('-')[1]}-{secret}",
        "a prefix in upper case": f"TT-{identity}-{secret}",
        "a wildcard id": f"{prefix}-%-{secret}",
        "SQL for an id": f"{prefix}-' OR '1'='1-{secret}",
        "SQL": "' OR '1'='1' --",
        "null": "null",
        "undefined": "undefined",
        "a list": f'["{owner}"]',
        "two of them": f"{owner}, {admin}",
        "two words": f"{owner} {admin}",
        "template text": "{{config.admin_key}}",
        "a NUL inside": owner[:3] + "\x00" + owner[3:],
        "full width": "".join(chr(ord(c) + 0xFEE0) if c.isascii() else c for c in owner),
        "a very long one": "x" * 60_000,
        **{f"a {what} one": text for what, text in keys.dead.items()},
        **{f"a hash, {n}": f"{prefix}-{identity}-{h}" for n, h in enumerate(keys.hashes[:2])},
    }
    for name, text in bearers.items():
        yield name, [("Authorization", f"Bearer {text}")]
    for name, value in {
        "another scheme": f"Basic {owner}",
        "no scheme": owner,
        "a token": f"Token {owner}",
        "a scheme and no space": f"Bearer{owner}",
        "a scheme twice": f"Bearer Bearer {owner}",
        "a digest": f'Digest username="admin", response="{owner}"',
    }.items():
        yield name, [("Authorization", value)]
    for header in ("X-Authorization", "Proxy-Authorization", "X-Admin-Key", "X-Trimtab-Key"):
        yield f"in {header}", [(header, f"Bearer {owner}")]
    yield "in a cookie", [("Cookie", f"Authorization=Bearer {owner}; key={owner}")]
    both = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {owner}")]
    yield "two headers, the right one last", both
    yield "two headers, the right one first", both[::-1]
    yield "two headers in other letters", [both[1], ("AUTHORIZATION", "Basic x")]


def roles(keys: Credentials) -> Iterator[Attack]:
    viewer, operator, author = (keys.roles[r] for r in ("viewer", "operator", "author"))
    new = packed({"name": "mine", "role": "admin"})
    lies: list[list[tuple[str, str]]] = [
        [("X-Trimtab-Role", "admin")],
        [("X-Trimtab-Caller", "admin"), ("Trimtab-Caller", "admin")],
        [("X-Forwarded-User", "admin"), ("X-Remote-User", "admin")],
        [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1;host=localhost")],
        [("X-Real-IP", "127.0.0.1"), ("X-Forwarded-Host", "localhost")],
        [("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health")],
        [("X-Forwarded-Prefix", "/health"), ("X-Script-Name", "/health")],
        [("X-HTTP-Method-Override", "GET")],
        [("X-HTTP-Method", "GET"), ("X-Method-Override", "GET")],
        [("Content-Type", "text/plain")],
        [("Origin", "http://127.0.0.1"), ("Sec-Fetch-Site", "same-origin")],
        [("Access-Control-Request-Method", "POST"), ("Origin", "http://127.0.0.1")],
    ]
    for number, (headers, role) in enumerate(product(lies, ("viewer", "author"))):
        name = f"{headers[0][0]} as {role} ({number})"
        key = keys.roles[role]
        yield Attack("roles", f"a new key: {name}", raw("POST", f"{V1}/keys", headers, new, key))
    for query in ("?role=admin", "?_method=GET", "?admin=true", "?actor=admin"):
        yield Attack(
            "roles", f"a new key{query}", raw("POST", f"{V1}/keys{query}", [], new, author)
        )
    binding = {
        "apiVersion": "trimtab/v1",
        "kind": "Binding",
        "metadata": {"name": "default"},
        "spec": {"mandatory": [], "policy": "none"},
    }
    documents: dict[str, bytes] = {
        "JSON": packed(binding),
        "YAML": b"apiVersion: trimtab/v1\nkind: Binding\nmetadata: {name: default}\nspec: {}\n",
        "an anchor": b"apiVersion: trimtab/v1\nkind: &k Binding\nmetadata: {name: default}\n"
        b"spec: {}\n",
        "in quotes": b'apiVersion: trimtab/v1\n"k\\x69nd": "B\\x69nding"\n'
        b"metadata: {name: default}\nspec: {}\n",
        "after another": b"apiVersion: trimtab/v1\nkind: Policy\nmetadata: {name: cover}\n"
        b"spec: {}\n---\n" + packed(binding),
    }
    for (how, body), path in product(documents.items(), ("policies", "monitors")):
        data = raw("POST", f"{V1}/{path}", [], body, author)
        yield Attack("roles", f"a binding as {how} to {path} by an author", data)
    for path in ("/keys", "/keys/thing", "/audit", "/audit/verify"):
        yield Attack("roles", f"{path} by an author", raw("GET", V1 + path, [], None, author))
        yield Attack("roles", f"{path} by HEAD", raw("HEAD", V1 + path, [], None, author))
    fields: list[dict[str, Any]] = [
        {"selectable": True},
        {"steer[0].coefficient": 100},
        {"strength.max": 2.0, "mode": "off"},
        {"monitors": {}},
        {"mode.": "off"},
        {"[0]mode": "off"},
        {"mode\u200b": "off"},
        {"\uff4dode": "off"},
        {"__class__": "x"},
        {"monitors.__proto__.mode.x": "off"},
    ]
    for number, change in enumerate(fields):
        data = raw("POST", f"{V1}/policies/formal/set", [], packed({"set": change}), operator)
        yield Attack("roles", f"a field by an operator ({number})", data)
    for method in (
        "PUT",
        "PATCH",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "GETT",
        "get",
        "X" * 99,
    ):
        data = raw(method, f"{V1}/policies", [], None, viewer)
        yield Attack("roles", f"method {method[:8]}", data)
