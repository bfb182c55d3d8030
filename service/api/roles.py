"""Which role each operation needs, by method; what is not in the table is refused to everyone.

The order is that of the routes in ``service/api/operations.py``: a fixed path before one with a
parameter that would take it too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.callers import Role

PREFIX = "/trimtab/v1"


@dataclass(frozen=True, slots=True)
class Permission:
    """The least role that each method of a path needs.

    Attributes:
        template: The path.
        least: The roles.
        alone: Whether a path with a parameter in its place is never meant: no digest is ``gc``,
            while a policy may be called ``plan``.
    """

    template: str
    least: Mapping[str, Role]
    alone: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """``{name}`` stands for one segment, ``{name:path}`` for all that follows."""
        whole = re.sub(r"\{\w+:path\}", "\x00", self.template)
        single = re.sub(r"\{\w+\}", "\x01", whole)
        return re.compile(re.escape(single).replace("\x00", ".+").replace("\x01", "[^/]+"))


def _under(path: str, **least: Role) -> Permission:
    return _at(f"{PREFIX}/{path}", **least)


def _at(template: str, **least: Role) -> Permission:
    reading: dict[str, Role] = {"HEAD": least["GET"]} if "GET" in least else {}
    return Permission(template, {**least, **reading})


PERMISSIONS: tuple[Permission, ...] = (
    _under("policies/plan", POST="viewer"),
    _under("policies", GET="viewer", POST="author"),
    _under("policies/{name}", GET="viewer", DELETE="author"),
    # An operator may change modes only; the handler looks at the fields.
    _under("policies/{name}/set", POST="operator"),
    _under("policies/{name}/rollback", POST="operator"),
    _under("monitors", GET="viewer", POST="author"),
    _under("monitors/{name}", GET="viewer", DELETE="author"),
    _under("monitors/{name}/scores", GET="viewer"),
    # A binding says what is mandatory: its documents need this role wherever they are posted.
    _under("bindings", GET="viewer", POST="admin"),
    _under("bindings/{name}", GET="viewer", DELETE="admin"),
    _under("bindings/{name}/halt", POST="operator"),
    _under("canaries", GET="viewer"),
    _under("artifacts", GET="viewer", POST="author"),
    Permission(f"{PREFIX}/artifacts/gc", {"POST": "author"}, alone=True),
    _under("artifacts/{digest}", GET="viewer", DELETE="author"),
    _under("edits", GET="viewer", POST="author"),
    _under("edits/{name}", GET="viewer", DELETE="author"),
    _under("edits/{name}/evaluate", POST="author"),
    _under("jobs", GET="viewer"),
    _under("jobs/{id}", GET="viewer"),
    _under("jobs/{id}/cancel", POST="author"),
    _under("jobs/{id}/card", GET="viewer"),
    _under("overview", GET="viewer"),
    _under("events", GET="viewer"),
    # What a policy captured of what was said: to operators, who may also judge it.
    _under("events/labelled", GET="operator"),
    _under("events/{id}", GET="viewer"),
    _under("events/{id}/label", POST="operator"),
    # It runs what nobody may ask for as a client: no policy at all, not even a mandatory one.
    _under("events/{id}/replay", POST="operator"),
    _under("verdicts", GET="viewer"),
    _under("decisions", GET="viewer"),
    _under("decisions/{id:path}", GET="viewer"),
    _under("status", GET="viewer"),
    _under("replicas", GET="viewer"),
    _under("keys", GET="admin", POST="admin"),
    _under("keys/{id}", GET="admin", DELETE="admin"),
    _under("keys/{id}/rotate", POST="admin"),
    _under("audit", GET="admin"),
    _under("audit/verify", GET="admin"),
    _under("openapi.json", GET="viewer"),
    _under("session", GET="viewer", POST="viewer", DELETE="viewer"),
    _at("/dashboard", GET="viewer"),
    _at("/dashboard/", GET="viewer"),
    _at("/dashboard/{file:path}", GET="viewer"),
)


class Permissions:
    """Finds what an operation needs."""

    def __init__(self, table: Iterable[Permission] = PERMISSIONS) -> None:
        """Compile the table."""
        self._table = tuple((permission.pattern, permission) for permission in table)

    def of(self, path: str) -> Mapping[str, Role]:
        """Return the least role by method of a path; empty for one that is not in the table."""
        found: dict[str, Role] = {}
        for pattern, permission in self._table:
            if pattern.fullmatch(path):
                found = {**permission.least, **found}
                if permission.alone:
                    break
        return found
