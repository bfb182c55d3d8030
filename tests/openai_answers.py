"""What a client gets, without what must differ, and where two servers' answers are not equal.

The same asks go to plain vLLM and to Trimtab under ``policy: none``: each answer, stream and error
is compared field by field. Left out are identities and times, the headers that are Trimtab's, and
how a stream's tokens were gathered into chunks, which depends on the moment.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import attrgetter
from typing import Any

import openai
from openai.pagination import SyncPage

from tests.openai_suite import BY_CONTRACT, Ask, Fields

# A fingerprint ends in a digest of the engine's configuration, of which Trimtab's worker is a part.
IDENTITIES = frozenset(
    {"id", "item_id", "response_id", "request_id", "call_id", "system_fingerprint"}
)
SAID = frozenset({"content", "text", "arguments", "delta"})
TIMES = frozenset({"created", "created_at", "completed_at"})
# Differs from answer to answer, or is the contract's own.
NOT_COMPARED = re.compile(r"date|x-request-id|x-trimtab-.*")


def observe(client: openai.OpenAI, ask: Ask) -> Fields:
    """Return what the client gets: an answer, the chunks of a stream, or an error."""
    if ask.key is not None:
        client = client.with_options(api_key=ask.key)
    resource, method = ask.route.rsplit(".", 1)
    raw = attrgetter(resource)(client).with_raw_response
    try:
        answer = getattr(raw, method)(**ask.fields)
        parsed = answer.parse()
        if ask.fields.get("stream"):
            found: Fields = {"stream": gathered([_plain(chunk) for chunk in parsed])}
        else:
            found = {"answer": _plain(parsed), "sent": json.loads(answer.text)}
    except openai.APIStatusError as error:
        sent = error.response
        headers = compared_headers(sent.headers)
        return {"error": type(error).__name__, "status": sent.status_code} | {
            "body": _body(sent.text),
            "headers": headers,
        }
    except openai.APIError as error:  # in the middle of a stream
        return {"error": type(error).__name__, "message": error.message, "body": error.body}
    return comparable(found) | {"headers": compared_headers(answer.headers)}


def unequal(plain: Mapping[str, Fields], ours: Mapping[str, Fields]) -> dict[str, list[str]]:
    """Return where the answers of two servers differ though they must not, by ask."""
    found: dict[str, list[str]] = {}
    for name, expected in plain.items():
        one, other = expected, without_policies(ours[name])
        if name in BY_CONTRACT:
            one, other = _outcome(one), _outcome(other)
        if name == "models: one":
            one = _outcome({})
        if differs := list(differences(one, other)):
            found[name] = differs
    return found


def without_policies(found: Fields) -> Fields:
    """Return a list of models without those that are a policy's; all else as it is."""
    if not isinstance(found.get("answer"), list):
        return found
    models = [card for card in found["answer"] if ":" not in card["id"]]
    sent = [card for card in found["sent"]["data"] if ":" not in card["id"]]
    return found | {"answer": models, "sent": found["sent"] | {"data": sent}}


def _outcome(found: Fields) -> Fields:
    return {name: found.get(name) for name in ("error", "status")}


def _plain(parsed: Any) -> Any:
    if isinstance(parsed, SyncPage):
        return [_plain(item) for item in parsed.data]
    return parsed.model_dump(mode="json")


def gathered(chunks: Sequence[Fields]) -> Any:
    """Return a stream as one object, or as its events where each has a type.

    The events of Responses are without log-probabilities: vLLM leaves out those of a token without
    text, such as the last one, unless it came in one chunk with others.
    """
    if not any("type" in chunk for chunk in chunks):
        return reduce(lambda one, other: _joined("", one, other), chunks)
    events: list[Fields] = []
    for chunk in chunks:
        event = _without(chunk, frozenset({"sequence_number", "logprobs"}))
        kind = event["type"]
        if kind.endswith(".delta") and events and events[-1]["type"] == kind:
            events[-1] = _joined("", events[-1], event)
        else:
            events.append(event)
    return events


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {n: _without(part, names) for n, part in value.items() if n not in names}
    return [_without(part, names) for part in value] if isinstance(value, list) else value


def _joined(name: str, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        names = {**one, **other}
        return {n: _joined(n, one.get(n), other.get(n)) for n in names}
    if isinstance(one, list):
        return _joined_lists(one, other)
    return one + other if name in SAID and isinstance(one, str) else other


def _joined_lists(one: list[Any], other: list[Any]) -> list[Any]:
    """Join parts that are numbered by number, others one after another."""
    if not all(isinstance(part, dict) and "index" in part for part in (*one, *other)):
        return [*one, *other]
    parts: dict[int, Any] = {}
    for part in (*one, *other):
        index = part["index"]
        parts[index] = _joined("", parts.get(index), part)
    return [parts[index] for index in sorted(parts)]


def _body(text: str) -> Any:
    text = re.sub(r"\[\d\d:\d\d:\d\d\]", "[…]", text)
    try:
        return json.loads(text)
    except ValueError:
        return text


def compared_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that must be equal."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if not NOT_COMPARED.fullmatch(name.lower()) and name.lower() != "content-length"
    }


def comparable(value: Any) -> Any:
    """Return a value with what differs from answer to answer replaced by what kind it is of."""
    if isinstance(value, Mapping):
        return {name: _field(name, part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [comparable(part) for part in value]
    return value


def _field(name: str, value: Any) -> Any:
    if name in IDENTITIES and isinstance(value, str):
        return re.sub(r"[0-9a-f]{8}[0-9a-f-]*", "…", value)
    if name in TIMES and value is not None:
        return type(value).__name__
    return comparable(value)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield where two values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from differences(
                one.get(name, "absent"), other.get(name, "absent"), f"{path}.{name}"
            )
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(first, second, f"{path}[{index}]")
    elif one != other:
        yield f"{path}: {json.dumps(one)[:300]} against {json.dumps(other)[:300]}"
