"""What the HTTP layer knows of the server it stands before."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forward.hookpoints import HookPoint
from forward.site import Capacity
from service.api.canaries import CanaryWatch
from service.api.drain import Drain
from service.api.inside import Inside
from service.api.keys import Keys
from service.api.metrics import Metrics
from service.decisions import DecisionLog
from service.engine.door import Door
from service.events import EventLog
from service.governor import Governor
from service.job_runner import JobRunner
from service.reconcile import Reconciler
from service.store import Store

IsReady = Callable[[], bool]
Reason = Callable[[], str | None]
"""Says why requests are not served; None if nothing is the matter."""
NOT_RUNNING = "the engine is not running"


@dataclass(frozen=True, eq=False)
class Server:
    """The parts that handlers need.

    Attributes:
        governor: What is active.
        store: Revisions and artifacts; blocking.
        keys: Who may do what.
        inside: How it asks itself.
        metrics: Where it is counted.
        events: What monitors found.
        decisions: What requests ran under.
        served_names: The names of the model.
        is_ready: Whether the engine lives.
        capacities: The sites and their sizes, fixed at start.
        canaries: What is counted of canaries, and what ends them.
        reconciler: What follows the store, and knows the other servers.
        jobs: What runs long work; none where there is no model to work on.
        adapters: The names of LoRA adapters, each a model to clients.
        door: What requests pass, and wait at while weights change.
        drain: What counts requests under way, and refuses new ones at the end.
        reasons: What else may keep requests from being served.
        started: ``time.monotonic()`` at start.
    """

    governor: Governor
    store: Store
    keys: Keys
    inside: Inside
    metrics: Metrics
    events: EventLog
    decisions: DecisionLog
    served_names: tuple[str, ...]
    is_ready: IsReady
    capacities: Mapping[HookPoint, Capacity]
    canaries: CanaryWatch
    reconciler: Reconciler
    jobs: JobRunner | None = None
    adapters: tuple[str, ...] = ()
    door: Door = field(default_factory=Door)
    drain: Drain = field(default_factory=Drain)
    reasons: tuple[Reason, ...] = ()
    started: float = field(default_factory=time.monotonic)

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that a request can give as its model, without a policy."""
        return (*self.served_names, *self.adapters)

    def unready(self) -> tuple[str, ...]:
        """Return every reason why requests are not served; none if they are."""
        engine = None if self.is_ready() else self.door.reason or NOT_RUNNING
        found = (engine, self.drain.reason, *(reason() for reason in self.reasons))
        return tuple(reason for reason in found if reason is not None)
