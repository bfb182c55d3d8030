"""Who asks: a key's identity, and the roles that say what it may do. Imports no HTTP."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from service.limits import Limits

Role = Literal["infer", "viewer", "operator", "author", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""In order: each role may do what those before it may."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key: The public id of the key; empty for the key of the environment, or for nobody.
        name: What the key is called, for the audit log.
        role: What it may do; None for whoever asks without a key where none is needed.
        tenant: Whose key it is.
        limits: What it may use.
    """

    key: str = ""
    name: str = "anonymous"
    role: Role | None = None
    tenant: str | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def label(self) -> str:
        """Name and key, as the audit log says them."""
        return f"{self.name} ({self.key})" if self.key else self.name

    def may(self, least: Role) -> bool:
        """Whether the caller has a role or one above it."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(least)


ANONYMOUS = Caller()
OWNER = Caller(name="admin", role="admin")
"""Whoever has the admin key of the environment."""
DIRECTORY = Caller(name="policy directory", role="author")
"""The policy directory, which speaks for those who may write there."""
CONSOLE = Caller(name="command line", role="admin")
"""Whoever writes the store directly."""
PROBER = Caller(key="probe", name="probe", role="infer")
"""The server itself, when it asks its probes; no key in the store has such an id."""
