"""Bad input as a table: what is sent, and the status and words that must come back.

The cases speak of a ``Subject``, so that the same table runs against any server: its model, a
policy that may be chosen, and what it can hold.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save

CHAT = "/v1/chat/completions"
V1 = "/trimtab/v1"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Subject:
    """The server that the cases are sent to.

    Attributes:
        served: Name of the model.
        policy: A policy that a client may choose.
        other: Another one.
        direction: A direction of ``model`` at ``hook`` that policies may name.
        max_strength: The largest strength that ``policy`` allows.
        model: Fingerprint digest.
        rows: Table rows, used or not.
        key: The admin key.
        bare_site: A hook point that ``direction`` has a vector for and that is no site, if any.
        owns_binding: Whether the policy directory has the binding, which then cannot be posted.
    """

    served: str
    policy: str
    other: str
    direction: str
    max_strength: float
    model: str
    d_model: int
    n_layers: int
    rows: int
    key: str
    hook: str = "resid_post"
    bare_site: str | None = None
    owns_binding: bool = False


@dataclass(frozen=True)
class Case:
    """One request; ``says`` must be in the answer's text. ``is_vllms`` needs the real vLLM."""

    name: str
    method: str
    path: str
    status: int
    says: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_vllms: bool = False


def cases(subject: Subject) -> list[Case]:
    """Return every case for a server."""
    return [
        *_choices(subject),
        *_bodies(subject),
        *_routes(subject),
        *_keys(subject),
        *_documents(subject),
        *_steers(subject),
        *_bindings(subject),
        *_artifacts(subject),
        *_vllms(subject),
    ]


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def _chat_body(s: Subject, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "hello"}
    return {"model": s.served, "messages": [message], "max_tokens": 4, **fields}


def _chat(
    s: Subject,
    name: str,
    status: int,
    says: str,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Case:
    is_vllms = bool(fields.pop("is_vllms", False))
    body = _text(_chat_body(s, **fields))
    return Case(name, "POST", CHAT, status, says, body, {**JSON, **(headers or {})}, is_vllms)


def _choices(s: Subject) -> Iterator[Case]:
    p, o = s.policy, s.other
    yield _chat(s, "unknown policy in the body", 404, "there is no policy", policy="no-such")
    yield _chat(s, "a policy nearly right", 404, "did you mean", policy=p + "x")
    yield _chat(s, "unknown policy in the model", 404, "there is no policy", model=s.served + ":zz")
    header = {"X-Trimtab-Policy": "no-such"}
    yield _chat(s, "unknown policy in the header", 404, "there is no policy", header)
    yield _chat(s, "empty policy in the model", 404, "there is no policy", model=s.served + ":")
    yield _chat(s, "empty policy", 404, "there is no policy", policy="")
    header = {"X-Trimtab-Policy": o}
    yield _chat(s, "body and header disagree", 400, "different policies", header, policy=p)
    two = {"model": f"{s.served}:{o}", "policy": p}
    yield _chat(s, "model and body disagree", 400, "different policies", **two)
    yield _chat(s, "none and a policy disagree", 400, "different policies", header, policy="none")
    header = {"X-Trimtab-Policy": f"{p}, {o}"}
    yield _chat(s, "two policies in one header", 404, "there is no policy", header)
    yield _chat(s, "policy as a number", 400, "named by a string", policy=3)
    yield _chat(s, "policy as a list", 400, "named by a string", policy=[p])
    yield _chat(s, "policy as an object", 400, "named by a string", policy={"name": p})
    yield _chat(s, "policy as a path", 404, "there is no policy", policy="../../etc/passwd")
    yield _chat(s, "policy with a NUL", 404, "there is no policy", policy="a\x00b")
    yield _chat(s, "policy with a revision", 404, "there is no policy", policy=f"{p}@1")
    yield _chat(s, "policy in other letters", 404, "there is no policy", policy=p.upper())
    long = "x" * 100_000
    yield _chat(s, "a very long policy", 404, "there is no policy", policy=long)
    for value in (s.max_strength + 0.5, -1e9, 1e308):
        name = f"strength {value:g}"
        yield _chat(s, name, 400, "out of range", policy=p, strength=value)
    for value, says in (("1", "number"), (True, "number"), ([1], "number"), ({}, "number")):
        yield _chat(s, f"strength {value!r}", 400, says, policy=p, strength=value)
    for value in (float("nan"), float("inf"), float("-inf"), 10**400):
        name = f"strength {str(value)[:8]}"
        yield _chat(s, name, 400, "finite", policy=p, strength=value)
    yield _chat(s, "strength without a policy", 400, "none is chosen", policy="none", strength=1)


def _bodies(s: Subject) -> Iterator[Case]:
    for value in (True, "scores", [], 1):
        yield _chat(s, f"trimtab is {value!r}", 400, "'trimtab' is an object", trimtab=value)
    typo = {"score": True}
    yield _chat(s, "unknown option", 400, "did you mean 'scores'", trimtab=typo)
    stranger = {"scores": True, "rows": [1]}
    yield _chat(s, "another unknown option", 400, "unknown field 'rows'", trimtab=stranger)
    yield _chat(s, "scores is no boolean", 400, "true or false", trimtab={"scores": 1})
    forged = {"trimtab": "x"}
    yield _chat(s, "forged vllm_xargs", 400, "server's own", vllm_xargs=forged)
    stamp = {"trimtab": {"request": "0" * 32, "spans": []}}
    yield _chat(s, "forged extra_args", 400, "server's own", extra_args=stamp)
    tokens = {"token_ids": [1], "sampling_params": {"extra_args": stamp}}
    yield Case(
        "forged stamp in raw sampling parameters",
        "POST",
        "/inference/v1/generate",
        400,
        "server's own",
        _text(tokens),
        JSON,
    )
    deep = b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    yield Case("a bottomless body", "POST", CHAT, 400, "nested", deep, JSON)
    large = _text(_chat_body(s, padding="x" * (9 << 20)))
    yield Case("a body of 9 MiB", "POST", CHAT, 413, "larger than", large, JSON)
    background = _text({"model": s.served, "input": "hello", "background": True})
    yield Case("background", "POST", "/v1/responses", 400, "background", background, JSON)
    body = _text({**_chat_body(s), "policy": "no-such"})
    for path in ("/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"):
        yield Case(f"unknown policy at {path}", "POST", path, 404, "no policy", body, JSON)


def _routes(s: Subject) -> Iterator[Case]:
    key = {"Authorization": f"Bearer {s.key}"}
    closed = ["/pause", "/sleep", "/collective_rpc", "/update_weights", "/reset_prefix_cache"]
    closed += ["/v1/load_lora_adapter", "/invocations", "/v1/systemone", "/scale_elastic_ep"]
    closed += ["/v1/chat/completions/render", "/inference/v1/abort_requests", "/v1/embeddings"]
    for path in closed:
        yield Case(f"closed: {path}", "POST", path, 403, "is closed", b"{}", {**JSON, **key})
    for path in ("/nothing", "/v1/chat/completions/", "//v1/chat/completions", "/v1/unknown"):
        yield Case(f"unknown: {path}", "POST", path, 404, "not served", b"{}", {**JSON, **key})
    yield Case("wrong method", "GET", CHAT, 405, "not served at")
    yield Case("wrong method on models", "POST", "/v1/models", 405, "not served at", b"{}", JSON)
    yield Case("an unknown model", "GET", "/v1/models/zz", 404, "there is no model")
    yield Case("wrong operations method", "PUT", f"{V1}/policies", 405, "not served", b"", key)
    yield Case("an operation that is none", "GET", f"{V1}/nothing", 404, "not served", None, key)
    yield Case("no such file", "GET", "/dashboard/x.js", 404, "not served", None, key)
    path = f"{V1}/events/9/label"
    yield Case("no such label", "POST", path, 422, "null", b'{"label": 1}', key)
    yield Case("a label of nothing", "POST", path, 404, "no event", b'{"label": true}', key)
    yield Case("labels of nobody", "GET", f"{V1}/events/labelled", 400, "names whose", None, key)
    path = f"{V1}/events/labelled?monitor=harm&label=maybe"
    yield Case("no such label to list", "GET", path, 400, "left out", None, key)
    yield Case("a span", "GET", f"{V1}/overview?minutes=7", 400, "1440", None, key)
    yield Case("scores of nothing", "GET", f"{V1}/monitors/x/scores", 404, "'x'", None, key)
    yield Case("a plan of nothing", "POST", f"{V1}/policies/plan", 422, "no document", b"", key)
    yield Case("no such entry", "GET", f"{V1}/audit?before=-1", 400, "a number from", None, key)
    back = f"{V1}/policies/%2e%2e/rollback"
    yield Case("back to what never was", "POST", back, 404, "was recorded", b"", key)


def _keys(s: Subject) -> Iterator[Case]:
    path = f"{V1}/status"
    yield Case("no key", "GET", path, 401, "needs a key")
    wrong = {"Authorization": "Bearer wrong"}
    yield Case("a wrong key", "GET", path, 401, "not valid here", None, wrong)
    half = {"Authorization": f"Bearer {s.key[:-1]}"}
    yield Case("a key cut short", "GET", path, 401, "not valid here", None, half)
    basic = {"Authorization": f"Basic {s.key}"}
    yield Case("a key of another scheme", "GET", path, 401, "needs a key", None, basic)
    yield Case("a key in the query", "GET", f"{path}?key={s.key}", 401, "needs a key")
    post = _text(_policy("sneaked"))
    yield Case("a policy without a key", "POST", f"{V1}/policies", 401, "needs a key", post)
    yield Case(
        "a policy with a wrong key", "POST", f"{V1}/policies", 401, "not valid here", post, wrong
    )
    yield Case("removal without a key", "DELETE", f"{V1}/policies/{s.policy}", 401, "needs a key")


def _policy(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name}
    return {"apiVersion": "trimtab/v1", "kind": "Policy", "metadata": metadata, "spec": spec}


def _post(s: Subject, name: str, status: int, says: str, body: object) -> Case:
    content = body if isinstance(body, bytes) else _text(body)
    key = {"Authorization": f"Bearer {s.key}"}
    return Case(name, "POST", f"{V1}/policies", status, says, content, key)


def _documents(s: Subject) -> Iterator[Case]:
    good = _policy("fresh")
    yield _post(s, "no document", 422, "no document", b"")
    yield _post(s, "only a comment", 422, "no document", b"# nothing\n")
    yield _post(s, "broken YAML", 422, "", b"kind: [Policy\n")
    yield _post(s, "not UTF-8", 422, "not UTF-8", b"kind: \xff\xfe")
    yield _post(s, "a list", 422, "a mapping", [good])
    yield _post(s, "no kind", 422, "'kind' is missing", {})
    yield _post(s, "an unknown kind", 422, "is not known", good | {"kind": "Polices"})
    yield _post(s, "a set without facts", 422, "'facts' is missing", good | {"kind": "EditSet"})
    yield _post(s, "another version", 422, "apiVersion", good | {"apiVersion": "trimtab/v2"})
    yield _post(s, "an unknown field", 422, "unknown field", _policy("fresh", colour="red"))
    yield _post(s, "a field misspelt", 422, "did you mean 'steer'", _policy("fresh", steeer=[]))
    yield _post(s, "a reserved name", 422, "reserved", _policy("none"))
    yield _post(s, "a path for a name", 422, "is not a name", _policy("../escape"))
    yield _post(s, "a name of 64 letters", 422, "is not a name", _policy("x" * 64))
    yield _post(s, "an unknown mode", 422, "is not one of", _policy("fresh", mode="on"))
    yield _post(s, "a boolean in quotes", 422, "selectable", _policy("fresh", selectable="yes"))
    upside = _policy("fresh", strength={"default": 1, "min": 2, "max": 1})
    yield _post(s, "strength upside down", 422, "above 'max'", upside)
    outside = _policy("fresh", strength={"default": 3, "min": 0, "max": 1})
    yield _post(s, "default strength outside", 422, "outside 'min'", outside)
    twice = _text(good) + b"\n---\n" + _text(good)
    yield _post(s, "a name given twice", 422, "given twice", twice)
    bomb = b"a: &a [x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 8)) for c in range(98, 106)
    )
    yield _post(s, "an alias bomb", 422, "", bomb)
    yield _post(s, "a YAML tag that would run code", 422, "", b"!!python/object:os.system {}")
    yield _post(s, "nested deeply", 422, "nested", b"[" * 5000)
    large = b"#" * ((1 << 20) + 1)
    yield _post(s, "a document above 1 MiB", 413, "larger than", large)
    yield _post(s, "edits", 422, "no edit set 'facts'", _policy("fresh", edits=["facts"]))
    monitors = {"no-such-monitor": {"mode": "enforce", "fpr": 0.01, "do": "refuse"}}
    watched = _policy("fresh", monitors=monitors)
    yield _post(s, "watching what is not there", 422, "there is no monitor 'no-such", watched)
    both = {"harm": {"mode": "shadow", "fpr": 0.01, "above": 1.0, "do": "log"}}
    yield _post(s, "two thresholds", 422, "either 'fpr' or", _policy("fresh", monitors=both))
    idle = {"harm": {"mode": "shadow", "fpr": 0.01, "do": "steer"}}
    yield _post(s, "steering by nothing", 422, "waits for it", _policy("fresh", monitors=idle))
    yield from _monitors(s)
    path = f"{V1}/policies/no-such"
    key = {"Authorization": f"Bearer {s.key}"}
    yield Case("a policy that is not there", "GET", path, 404, "no-such", None, key)
    yield Case("removing what is not there", "DELETE", path, 404, "there is no policy", None, key)
    path = f"{V1}/policies/{s.policy}?revision="
    yield Case("a revision of no sense", "GET", path + "x", 400, "'revision'", None, key)
    yield Case("a revision that is not", "GET", path + "9999", 404, "9999", None, key)
    yield Case("a path for a policy", "GET", f"{V1}/policies/..%2F..", 404, "", None, key)


def _monitors(s: Subject) -> Iterator[Case]:
    def monitor(name: str, says: str, **spec: Any) -> Case:
        return _post(
            s, f"monitor: {name}", 422, says, _policy("fresh") | {"kind": "Monitor", "spec": spec}
        )

    yield monitor("nothing to read", "reads one of", read={})
    yield monitor("an unknown probe", "there is no probe", read={"probe": "no-such"})
    yield monitor("a path for a probe", "is not a name", read={"probe": "../../etc/passwd"})
    yield monitor("an unknown SAE", "there is no sae", read={"feature": {"sae": "x", "index": 0}})
    far = {"direction": s.direction, "layer": s.n_layers}
    yield monitor("a layer beyond the model", "outside the model", read=far)
    read = {"direction": s.direction, "layer": 0}
    yield monitor("an unknown pool", "is not one of", read=read, pool="median")
    yield monitor("attention without a query", "attention needs", read=read, pool="attention")
    many = {"sae": "x", "indices": list(range(300))}
    yield monitor("too many latents", "", read={"feature": many})
    path = f"{V1}/monitors/no-such"
    key = {"Authorization": f"Bearer {s.key}"}
    yield Case("a monitor that is not there", "GET", path, 404, "no-such", None, key)
    yield Case("removing no monitor", "DELETE", path, 404, "there is no monitor", None, key)
    edit = f"{V1}/policies/no-such/set"
    yield Case("editing no policy", "POST", edit, 404, "there is no policy", b'{"set": {}}', key)
    edit = f"{V1}/policies/{s.policy}/set"
    for body, says in ((b"[]", "object"), (b"{", "JSON"), (b'{"set": 1}', "object")):
        status = 400 if body == b"{" else 422
        yield Case(f"a change that is {body.decode()}", "POST", edit, status, says, body, key)


def _steers(s: Subject) -> Iterator[Case]:
    def steer(name: str, says: str, status: int = 422, **entry: Any) -> Case:
        entry = {"direction": s.direction, **entry}
        return _post(s, name, status, says, _policy("fresh", steer=[entry]))

    yield steer("an unknown direction", "there is no direction", direction="no-such")
    yield steer("a path for a direction", "is not a name", direction="/etc/passwd")
    yield steer("no direction", "give either", direction=None)
    yield steer("a layer beyond the model", "layer", at=f"{s.hook}.{s.n_layers}")
    yield steer("a negative layer", "at", at=f"{s.hook}.-1")
    yield steer("no hook point", "at", at="resid.1")
    yield steer("a later hook point", "", at="mlp.0")
    yield steer("two spellings of a point", "twice", at=[f"{s.hook}.0", f"{s.hook}.0"])
    yield steer("an unknown operation", "is not one of", op="push")
    yield steer("clamp without bounds", "needs 'min'", op="clamp")
    yield steer("bounds without clamp", "belongs to op: clamp", min=1)
    yield steer("clamp upside down", "above 'max'", op="clamp", min=2, max=1)
    yield steer("rotate without a plane", "needs 'degrees'", op="rotate", degrees=10)
    yield steer("rotate into itself", "itself", op="rotate", degrees=10, toward=s.direction)
    yield steer("an unknown unit", "is not one of", unit="metres")
    yield steer("an unknown clause", "tokens", tokens="first")
    yield steer("a clause from -1", "tokens", tokens={"from": -1})
    yield steer("a coefficient too large", "", coefficient=1e30)
    yield steer("a coefficient in quotes", "coefficient", coefficient="1")
    yield steer("a gate without a threshold", "one of 'fpr'", when={"monitor": "harm"})
    gate = {"monitor": "harm", "above": 1.0}
    yield steer("a gate on what is not monitored", "not under 'monitors'", when=gate)
    feature = {"sae": "no-such", "index": 1}
    yield steer("an unknown SAE", "there is no sae", direction=None, feature=feature)
    yield steer("a negative latent", "", direction=None, feature=feature | {"index": -1})
    yield steer("both direction and feature", "give either", feature={"sae": "a", "index": 1})
    text = _text(_policy("fresh", steer=[{"direction": s.direction, "coefficient": 0}]))
    for number in (b".nan", b".inf", b"-.inf"):
        body = text.replace(b'"coefficient": 0', b'"coefficient": ' + number)
        yield _post(s, f"coefficient {number.decode()}", 422, "NaN and infinity", body)
    starts = [
        {"direction": s.direction, "coefficient": 0.1 * n, "tokens": {"from": n}}
        for n in range(1, 30)
    ]
    yield _post(s, "too many clauses", 422, "'from' clauses", _policy("fresh", steer=starts))
    many = [
        _policy(f"many-{n}", steer=[{"direction": s.direction, "coefficient": 0.001 * (n + 1)}])
        for n in range(s.rows)
    ]
    body = b"\n---\n".join(_text(one) for one in many)
    yield _post(s, "more policies than rows", 409, "--rows", body)
    if s.bare_site is not None:
        yield steer("a point that is no site", "--sites", 409, at=s.bare_site)


def _bindings(s: Subject) -> Iterator[Case]:
    def bound(name: str, status: int, says: str, **spec: Any) -> Case:
        metadata = {"name": "default"}
        body = {"apiVersion": "trimtab/v1", "kind": "Binding", "metadata": metadata, "spec": spec}
        return _post(s, name, status, says, body)

    unknown = (409, "owned by the policy directory") if s.owns_binding else (400, "not there")
    yield bound("an unknown mandatory policy", *unknown, mandatory=["no-such"])
    yield bound("an unknown default", *unknown, policy="no-such")
    yield bound("an unknown choice", *unknown, choices=["no-such"])
    yield bound("mandatory and chosen", 422, "twice", mandatory=[s.policy], choices=[s.policy])
    yield bound("mandatory none", 422, "reserved", mandatory=["none"])
    yield bound("a choice twice", 422, "named twice", choices=[s.policy, s.policy])


def _artifacts(s: Subject) -> Iterator[Case]:
    key = {"Authorization": f"Bearer {s.key}"}
    path = f"{V1}/artifacts"
    unit = torch.ones(s.d_model) / s.d_model**0.5
    good = {f"{s.hook}.0": unit}

    def post(name: str, status: int, says: str, body: object) -> Case:
        content = body if isinstance(body, bytes) else _text(body)
        return Case(f"artifact: {name}", "POST", path, status, says, content, key)

    def made(tensors: dict[str, torch.Tensor], **changes: Any) -> dict[str, Any]:
        return {"card": _card(s) | changes, "tensors": base64.b64encode(save(tensors)).decode()}

    yield post("no JSON", 400, "not JSON", b"{")
    yield post("a list", 400, "'card' and 'tensors'", [])
    yield post("no card", 422, "'card'", {"tensors": ""})
    yield post("no tensors", 422, "'tensors'", {"card": _card(s)})
    yield post("a server's path", 422, "unknown field", made(good) | {"path": "/etc/passwd"})
    yield post("not base64", 422, "not base64", {"card": _card(s), "tensors": "%%%"})
    yield post("a pickle", 422, "not a safetensors", made(good) | {"tensors": "gASVAAAA"})
    yield post("NaN in a vector", 422, "not finite", made({f"{s.hook}.0": unit * torch.nan}))
    yield post("no unit vector", 422, "unit vector", made({f"{s.hook}.0": unit * 2}))
    narrow = torch.ones(1)
    yield post("another width", 422, "width", made({f"{s.hook}.0": narrow}))
    yield post("another width and card", 422, "width", made({f"{s.hook}.0": narrow}, d_model=1))
    integers = torch.ones(s.d_model, dtype=torch.int64)
    yield post("integers", 422, "float32", made({f"{s.hook}.0": integers}))
    yield post("another model", 422, "made on model", made(good, model="f" * 64))
    yield post("tensors beside the card", 422, "tensors", made({f"{s.hook}.1": unit}))
    yield post("a scale that is NaN", 422, "", made(good, scale={"0": float("nan")}))
    yield post("an unknown card field", 422, "card", made(good, colour="red"))
    yield post("a name that is a path", 422, "is not a name", made(good, name="../x"))
    yield post("another kind", 422, "not served", made(good, kind="edits"))
    far = {"scale": {str(s.n_layers): 1.0}, "defaults": _defaults(s.n_layers)}
    deep = made({f"{s.hook}.{s.n_layers}": unit}, **far)
    yield post("a layer beyond the model", 422, "layers", deep)
    yield Case("a digest that is none", "GET", f"{path}/abc", 400, "digest", None, key)
    yield Case("a digest not stored", "GET", f"{path}/{'0' * 64}", 404, "no artifact", None, key)


def _defaults(layer: int) -> dict[str, Any]:
    return {"layers": [layer], "op": "add", "tokens": "all", "coefficient": 1.0, "unit": "natural"}


def _card(s: Subject) -> dict[str, Any]:
    return {
        "kind": "direction",
        "name": "fresh",
        "hook": s.hook,
        "model": s.model,
        "d_model": s.d_model,
        "scale": {"0": 1.0},
        "benign": {},
        "target": {},
        "separation": {},
        "provenance": {"method": "mean", "token": "", "n_pairs": 0, "source": ""},
        "defaults": _defaults(0),
    }


def _vllms(s: Subject) -> Iterator[Case]:
    """What vLLM itself refuses, under a policy."""

    def chat(name: str, status: int, **fields: Any) -> Case:
        return _chat(s, name, status, "error", is_vllms=True, policy=s.policy, **fields)

    yield chat("vLLM: an unknown model", 404, model="no-such-model")
    yield chat("a negative temperature", 400, temperature=-1)
    yield chat("top_p of 2", 400, top_p=2)
    yield chat("no messages", 400, messages=None)
    yield chat("max_tokens beyond the context", 400, max_tokens=10_000_000)
    yield chat("n of 0", 400, n=0)
    yield Case("no JSON", "POST", CHAT, 400, "error", b"{nope", JSON, is_vllms=True)
    yield Case("an array", "POST", CHAT, 400, "error", b"[]", JSON, is_vllms=True)
    body = _text({"model": s.served, "prompt": [10**9], "policy": s.policy, "max_tokens": 1})
    path = "/v1/completions"
    yield Case("a token out of the vocabulary", "POST", path, 400, "error", body, JSON, True)
