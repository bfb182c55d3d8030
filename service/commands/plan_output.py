"""How a plan, and what a change did, are said in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MARKS = {"add": "+", "change": "~", "remove": "-"}
_SHOWN = 100
_DIGEST = 12

Json = Mapping[str, Any]


def plan_lines(plan: Json) -> Iterator[str]:
    """Yield the lines of a plan."""
    yield f"plan for generation {plan['generation']}"
    unchanged = 0
    for document in plan["documents"]:
        if document["action"] == "none":
            unchanged += 1
        else:
            yield from _document_lines(document)
    if unchanged:
        yield f"= {unchanged} document{'s' if unchanged > 1 else ''} as they are"
    yield from map(_cache_line, plan["caches"])
    yield from map(_table_line, plan["capacity"])
    if plan["merged"] is not None:
        names = ", ".join(plan["merged"]) or "no edits"
        yield f"weights    would hold {names}; answers under way end first, and caches are emptied"
    if plan["refused"] is not None:
        yield f"refused    {plan['refused']['message']}"
    elif not plan["changes"]:
        yield "nothing would change"


def outcome_lines(outcome: Json) -> Iterator[str]:
    """Yield what a change did, a line a document."""
    count = 0
    for key, kind in (
        ("", "Policy"),
        ("_monitors", "Monitor"),
        ("_edits", "EditSet"),
        ("_bindings", "Binding"),
    ):
        for one in outcome.get(f"changed{key}", ()):
            count += 1
            yield f"{kind} {one['name']}@{one['revision']} is active"
        for name in outcome.get(f"removed{key}", ()):
            count += 1
            yield f"{kind} {name} is removed"
    if count:
        yield f"generation {outcome['generation']}"
    else:
        yield f"nothing changed: generation {outcome['generation']} says so already"


def _document_lines(document: Json) -> Iterator[str]:
    head = f"{MARKS[document['action']]} {document['kind']} {document['name']}"
    yield f"{head}  {_revisions(document)}"
    said = _given if document["action"] == "add" else _difference
    for difference in document["differences"]:
        yield f"    {said(difference)}"
    for difference in document["artifact_differences"]:
        yield f"    artifact {_difference(difference, _DIGEST)}"
    yield from _uses(document)


def _revisions(document: Json) -> str:
    before, after = document["before"], document["after"]
    if document["action"] == "remove":
        return f"revision {before}, removed"
    return f"revision {before} -> {after}" if before is not None else f"revision {after}, new"


def _uses(document: Json) -> Iterator[str]:
    """Yield the monitors and the artifacts that it uses; these are known where it compiles."""
    artifacts = document["artifacts"]
    for monitor in document["monitors"]:
        yield f"    watched by {monitor}{_calibration(monitor, artifacts)}"
    for name, digest in (artifacts or {}).items():
        yield f"    uses {name} {digest[:_DIGEST]}"


def _calibration(monitor: str, artifacts: Json | None) -> str:
    if artifacts is None:
        return ""
    return " (calibrated)" if f"calibration/{monitor}" in artifacts else " (no calibration)"


def _difference(difference: Json, length: int = _SHOWN) -> str:
    before, after = (_value(difference, side, length) for side in ("before", "after"))
    return f"{difference['path']}: {before} -> {after}"


def _given(difference: Json) -> str:
    """Return a field of a new document."""
    return f"{difference['path']}: {_value(difference, 'after', _SHOWN)}"


def _value(difference: Json, side: str, length: int) -> str:
    if side not in difference:
        return "(not set)"
    text = _plain(difference[side])
    return text if len(text) <= length else f"{text[:length]}…"


def _plain(value: Any) -> str:
    """Return a value as a document writes it, in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _cache_line(cache: Json) -> str:
    what = " and ".join(name for name in ("prompts", "answers") if cache[name])
    policy = f"choose {cache['policy']}" if cache["policy"] else "choose nothing"
    return f"caches     {what} of requests under binding {cache['binding']} that {policy} fork"


def _table_line(table: Json) -> str:
    return (
        f"capacity   {table['more']} more {table['table']}; {table['free']} of {table['size']} free"
    )
