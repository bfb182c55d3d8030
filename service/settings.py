"""What the server is started with; the environment is read here, once."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import ServiceError
from service.json_log import LogFormat

ADMIN_KEY = "TRIMTAB_ADMIN_KEY"
KEY = "TRIMTAB_KEY"
"""What the commands send, where it is not the admin key."""
URL = "TRIMTAB_URL"
"""The server that the commands ask, where no --url is given."""
ARTIFACTS_FOLDER = "TRIMTAB_ARTIFACTS"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DRAIN_SECONDS = 30.0
DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


class SettingsError(ServiceError):
    """Settings that the server refuses to start with."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says; keys are kept out of ``repr``.

    ``key`` is what the commands send to a server, the admin key unless another is given; ``url`` is
    the server that they ask.
    """

    admin_key: str | None = field(default=None, repr=False)
    artifacts_folder: Path | None = None
    key: str | None = field(default=None, repr=False)
    url: str = DEFAULT_URL

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> "Environment":
        """Read the variables, those of the process unless given; an empty one counts as unset."""
        variables = os.environ if variables is None else variables
        folder = variables.get(ARTIFACTS_FOLDER)
        admin, own = ((variables.get(name) or "").strip() or None for name in (ADMIN_KEY, KEY))
        url = (variables.get(URL) or "").strip() or DEFAULT_URL
        return cls(admin, Path(folder) if folder else None, own or admin, url)


@dataclass(frozen=True, slots=True)
class Headroom:
    """Capacity beyond what the policy directory needs at start.

    Reads and writes are per site of the residual stream, ranks (a fact or two take one) per site of
    an edit.
    """

    rows: int = 64
    reads: int = 16
    writes: int = 16
    gates: int = 16
    ranks: int = 32

    def __post_init__(self) -> None:
        """Refuse negative counts."""
        for name in ("rows", "reads", "writes", "gates", "ranks"):
            if getattr(self, name) < 0:
                raise SettingsError(f"the head-room of {name} is a count: 0 or more")


@dataclass(frozen=True, slots=True)
class EventRetention:
    """How many events, or records of requests, are kept, and for how many days."""

    count: int = 100_000
    days: float = 30.0

    def __post_init__(self) -> None:
        """Refuse to keep none."""
        if self.count < 1 or not self.days > 0:
            raise SettingsError("events are kept for a while: a count from 1 on, days above 0")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that ``trimtab serve`` decides before the engine starts.

    ``sites`` are hook points to instrument beyond those that the directory's policies use;
    ``seed`` is a folder like a policy directory whose documents a store has to begin with;
    ``state`` absent means a store that ends with the server; ``merge_layers`` are the decoder
    layers that edits may be merged into; ``drain_seconds`` is how long what is under way may take
    when the server is to end; ``min_generation`` is the oldest state of the store to serve;
    ``artifact_quota`` is how many bytes the store's artifacts may take; ``log_format`` is that of
    every process's lines.
    """

    model: str
    policies: Path | None = None
    state: str | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    admin_key: str | None = field(default=None, repr=False)
    artifacts_folder: Path | None = None
    headroom: Headroom = field(default_factory=Headroom)
    sites: tuple[str, ...] = ()
    merge_layers: tuple[int, ...] = ()
    events: EventRetention = field(default_factory=EventRetention)
    decisions: EventRetention = field(default_factory=EventRetention)
    drain_seconds: float = DRAIN_SECONDS
    min_generation: int = 0
    artifact_quota: int | None = None
    log_format: LogFormat = "text"
    seed: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a port that is none and a policy directory that is not there."""
        if self.artifact_quota is not None and self.artifact_quota < 0:
            raise SettingsError("the quota of artifacts is a number of bytes: 0 or more")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port {self.port} is not between 0 and 65535")
        if not 0 <= self.drain_seconds < float("inf"):
            raise SettingsError(f"--drain-seconds {self.drain_seconds:g} is a time from 0 on")
        if self.policies is not None and not self.policies.is_dir():
            raise SettingsError(f"the policy directory {self.policies} is not there: make it first")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``; empty means every address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, admin_key: str | None) -> None:
    """Refuse an address that others can reach unless the operator has set an admin key.

    Inference needs keys there in any case; they are made with the admin key, or given to vLLM.

    Args:
        host: The address to bind.
        admin_key: The key of the environment, not one that was generated: that one is printed.

    Raises:
        SettingsError: It is missing.
    """
    if not is_loopback(host) and admin_key is None:
        raise SettingsError(
            f"any other bind address than loopback needs keys, and {host} is not loopback: set "
            f"{ADMIN_KEY}, or bind {DEFAULT_HOST}"
        )
