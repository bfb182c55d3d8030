"""Reads YAML 1.2 into plain values that remember their line and column.

Built on ruamel's events rather than on a constructor, since that gives three things at once:
positions of keys and values, the exact core schema of YAML 1.2 (``off`` is a string), and a budget
on what aliases may expand to. Tags, merge keys and exotic keys are refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml import events as ev
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from service.errors import ServiceError

MAX_DOCUMENT_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 32
MAX_DIGITS = 64

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o([0-7]+)")
_HEXADECIMAL = re.compile(r"0x([0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class YamlError(ServiceError):
    """Text that is not the YAML we read; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        """Keep the message and its place."""
        super().__init__(message)
        self.line, self.column = line, column


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a YAML text: a scalar, a list of nodes, or a mapping of keys to nodes."""

    value: Any
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A mapping's entry: where its key stands, and its value."""

    line: int
    column: int
    node: Node


def read_yaml(text: str) -> list[Node]:
    """Return the root nodes of the documents in ``text``; empty documents are left out.

    Raises:
        YamlError: The text is not YAML 1.2, uses what is not read here, or is too large or deep.
    """
    try:
        return list(_documents(iter(YAML(typ="safe", pure=True).parse(StringIO(text)))))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.problem, error.context) if part)
        raise YamlError(f"not YAML: {message}", *_place(mark)) from error
    except ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n")
        raise YamlError(
            f"a character that YAML does not allow: {text[error.position]!r}",
            before.count("\n") + 1,
            column,
        ) from error
    except YAMLError as error:
        raise YamlError(f"not YAML: {error}", 1, 1) from error


def plain(node: Node) -> Any:
    """Return the node as plain values, its aliases expanded.

    Raises:
        YamlError: The expansion has too many values or is too deep.
    """
    budget = [MAX_NODES]

    def expand(part: Node, depth: int) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or depth > MAX_DEPTH:
            raise YamlError("aliases expand to too much", part.line, part.column)
        if isinstance(part.value, dict):
            return {key: expand(entry.node, depth + 1) for key, entry in part.value.items()}
        if isinstance(part.value, list):
            return [expand(item, depth + 1) for item in part.value]
        return part.value

    return expand(node, 1)


def place_of(root: Node, path: tuple[str | int, ...], on_key: bool = False) -> tuple[int, int]:
    """Return line and column of what stands at ``path``, or of the last part of it that exists.

    With ``on_key`` it is the place of the key rather than of its value.
    """
    node, place = root, (root.line, root.column)
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child.node if isinstance(child, Entry) else child
        place = (child.line, child.column) if on_key else (node.line, node.column)
    return place


def _child(node: Node, part: str | int) -> Entry | Node | None:
    if isinstance(node.value, dict):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _documents(events: Iterator[Any]) -> Iterator[Node]:
    for event in events:
        if isinstance(event, ev.DocumentStartEvent):
            if event.version not in (None, (1, 2)):
                raise YamlError("only YAML 1.2 is read", *_place(event.start_mark))
            builder = _Builder(events, event.start_mark.index)
            root = builder.node(next(events), 1)
            if root.value is not None:
                yield root


class _Builder:
    """Builds the nodes of one document from its events."""

    def __init__(self, events: Iterator[Any], start: int) -> None:
        self._events, self._start = events, start
        self._anchors: dict[str, Node] = {}
        self._left = MAX_NODES

    def node(self, event: Any, depth: int) -> Node:
        """Return the node that begins with ``event``, consuming its events."""
        place = _place(event.start_mark)
        self._check(event, depth, place)
        if isinstance(event, ev.AliasEvent):
            return self._alias(event, place)
        if isinstance(event, ev.ScalarEvent):
            node = Node(_scalar(event, place), *place)
        elif isinstance(event, ev.SequenceStartEvent):
            node = Node(self._sequence(depth), *place)
        else:
            node = Node(self._mapping(depth), *place)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _check(self, event: Any, depth: int, place: tuple[int, int]) -> None:
        self._left -= 1
        if self._left < 0:
            raise YamlError(f"more than {MAX_NODES} values in one document", *place)
        if event.end_mark.index - self._start > MAX_DOCUMENT_BYTES:
            raise YamlError(f"a document is larger than {MAX_DOCUMENT_BYTES} bytes", *place)
        if depth > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", *place)
        if getattr(event, "tag", None):
            raise YamlError(f"tags such as {event.tag} are not read; remove it", *place)

    def _alias(self, event: Any, place: tuple[int, int]) -> Node:
        if event.anchor not in self._anchors:
            raise YamlError(f"alias *{event.anchor} names no finished value before it", *place)
        return self._anchors[event.anchor]

    def _sequence(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), ev.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[Any, Entry]:
        entries: dict[Any, Entry] = {}
        while not isinstance(event := next(self._events), ev.MappingEndEvent):
            key = self.node(event, depth + 1)
            _check_key(key, entries)
            value = self.node(next(self._events), depth + 1)
            entries[key.value] = Entry(key.line, key.column, value)
        return entries


def _check_key(key: Node, entries: dict[Any, Entry]) -> None:
    if isinstance(key.value, bool) or not isinstance(key.value, (str, int)):
        raise YamlError("a key is a field, a name or a layer number", key.line, key.column)
    if key.value == "<<":
        raise YamlError("merge keys (<<) are not YAML 1.2", key.line, key.column)
    if key.value in entries:
        raise YamlError(f"key '{key.value}' is given twice", key.line, key.column)


def _scalar(event: Any, place: tuple[int, int]) -> object:
    """Resolve a scalar by YAML 1.2's core schema; only plain ones are anything but strings."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    number = any(form.fullmatch(text) for form in (_INTEGER, _OCTAL, _HEXADECIMAL, _FLOAT))
    if number and len(text) > MAX_DIGITS:
        raise YamlError(f"a number of more than {MAX_DIGITS} characters", *place)
    return _number(text) if number else text


def _number(text: str) -> int | float:
    if match := _OCTAL.fullmatch(text):
        return int(match[1], 8)
    if match := _HEXADECIMAL.fullmatch(text):
        return int(match[1], 16)
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def _place(mark: Any) -> tuple[int, int]:
    """Return a mark's line and column, counted from 1."""
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
