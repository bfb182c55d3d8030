"""Who asks: a key's identity, and the roles that say what it may do. Imports no HTTP."""

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["infer", "viewer", "operator", "author", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key: The public id of the key; empty for the key of the environment, or for nobody.
        name: What the key is called, for the audit log.
        role: What it may do; None for whoever asks without a key where none is needed.
        tenant: Whose key it is.
    """

    key: str = ""
    name: str = "anonymous"
    role: Role | None = None
    tenant: str | None = None

    @property
    def label(self) -> str:
        """Name and key, as the audit log says them."""
        return f"{self.name} ({self.key})" if self.key else self.name


ANONYMOUS = Caller()
OWNER = Caller(name="admin", role="admin")
"""Whoever has the admin key of the environment."""
DIRECTORY = Caller(name="policy directory", role="author")
"""The policy directory, which speaks for those who may write there."""
