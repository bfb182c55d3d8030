"""What the HTTP layer knows of the server it stands before."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forward.hookpoints import HookPoint
from forward.site import Capacity
from service.api.keys import Keys
from service.api.metrics import Metrics
from service.engine.door import Door
from service.events import EventLog
from service.governor import Governor
from service.job_runner import JobRunner
from service.store import Store

IsReady = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Server:
    """The parts that handlers need.

    Attributes:
        governor: What is active.
        store: Revisions and artifacts; blocking.
        keys: Who may do what.
        metrics: Where it is counted.
        events: What monitors found.
        served_names: The names of the model.
        is_ready: Whether the engine lives.
        capacities: The sites and their sizes, fixed at start.
        jobs: What runs long work; none where there is no model to work on.
        adapters: The names of LoRA adapters, each a model to clients.
        door: What requests pass, and wait at while weights change.
        started: ``time.monotonic()`` at start.
    """

    governor: Governor
    store: Store
    keys: Keys
    metrics: Metrics
    events: EventLog
    served_names: tuple[str, ...]
    is_ready: IsReady
    capacities: Mapping[HookPoint, Capacity]
    jobs: JobRunner | None = None
    adapters: tuple[str, ...] = ()
    door: Door = field(default_factory=Door)
    started: float = field(default_factory=time.monotonic)

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that a request can give as its model, without a policy."""
        return (*self.served_names, *self.adapters)
