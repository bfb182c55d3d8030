"""Puts the HTTP layer around vLLM's application."""

from collections.abc import Iterable, Mapping

from fastapi import FastAPI
from starlette.types import ASGIApp

from forward.hookpoints import HookPoint
from forward.site import Capacity
from service.api.access_log import AccessLog
from service.api.canaries import CanaryWatch
from service.api.drain import Drain
from service.api.inside import Inside
from service.api.keys import Keys
from service.api.lookout import Lookout
from service.api.metrics import Metrics
from service.api.middleware import PolicyMiddleware
from service.api.operations import operations_app
from service.api.probing import Prober
from service.api.server import IsReady, Reason, Server
from service.decisions import DecisionLog
from service.edit_jobs import EditWork
from service.engine.door import Door
from service.events import EventLog
from service.governor import Governor
from service.job_runner import JobRunner
from service.keyring import KeyRing
from service.prepare import Prepared
from service.reconcile import Reconciler
from service.settings import Settings, is_loopback
from service.store import Store

JOBS_FOLDER = "jobs"
"""Folder beside the artifacts' files with those of jobs at work."""


def event_log(store: Store, settings: Settings, metrics: Metrics) -> EventLog:
    """Return the log of a store's events; what it must drop is counted."""
    return EventLog(store.events(settings.events), metrics.monitors.event_dropped)


def decision_log(store: Store, settings: Settings, metrics: Metrics) -> DecisionLog:
    """Return the log of a store's decision records; what it must drop is counted."""
    return DecisionLog(store.decisions(settings.decisions), metrics.decision_dropped)


def job_runner(prepared: Prepared, governor: Governor) -> JobRunner:
    """Return what runs long work for a server; start it once the policies are active."""
    store, model = prepared.store, prepared.model.digest
    work = EditWork(store, prepared.checkpoint, model, governor.apply)
    return JobRunner(store.jobs(), work, store.artifacts_folder / JOBS_FOLDER)


def _waits(governor: Governor, least: int) -> str | None:
    """Return why requests are not served yet if a newer generation is waited for."""
    found = governor.catalog.generation
    return None if found >= least else f"generation {found} is active, and {least} is waited for"


def wrap(
    app: FastAPI,
    governor: Governor,
    *,
    store: Store,
    settings: Settings,
    served_names: Iterable[str],
    is_ready: IsReady,
    capacities: Mapping[HookPoint, Capacity] | None = None,
    api_keys: Iterable[str] = (),
    metrics: Metrics | None = None,
    events: EventLog | None = None,
    decisions: DecisionLog | None = None,
    jobs: JobRunner | None = None,
    adapters: Iterable[str] = (),
    door: Door | None = None,
    drain: Drain | None = None,
    reasons: Iterable[Reason] = (),
    reconciler: Reconciler | None = None,
    unlogged: Iterable[str] = (),
) -> FastAPI:
    """Add the HTTP layer to an application, outside all that it has, and return it.

    What is to run beside it is at ``app.state.lookout``.

    Args:
        app: vLLM's application, whole but not yet started.
        governor: What is active; started.
        store: Its store.
        settings: Whose admin key guards the operations and whose host decides whether inference
            may be open.
        served_names: Names of the model, as requests give them.
        is_ready: Whether the engine lives.
        capacities: The sites and their sizes, for ``status``.
        api_keys: The keys that vLLM was given; required for inference if there are any, and
            inference is refused without any on an address that others can reach.
        metrics: Where to count; made here unless given.
        events: Where monitors' events are written; made here unless given.
        decisions: Where decision records are written; made here unless given.
        jobs: What runs long work; started and closed by the caller.
        adapters: Names of LoRA adapters that the application serves.
        door: What the engine's requests pass; one of its own unless given.
        drain: What refuses requests at the end; one of its own unless given.
        reasons: What else may keep requests from being served, for ``/readyz``.
        reconciler: What follows the store, run by the caller; one that is not run unless given.
        unlogged: Paths without a line each request, where lines are JSON.
    """
    metrics = metrics or Metrics()
    # Not add_middleware: vLLM's build_app has built the stack already, and then it is refused.
    inner = app.middleware_stack or app.build_middleware_stack()
    open_to_all = is_loopback(settings.host)
    ring = KeyRing(store.keys())
    keys = Keys(settings.admin_key, api_keys, open_to_all, ring, store.sessions)
    server = Server(
        governor,
        store,
        keys,
        Inside(app, inner, keys),
        metrics,
        events or event_log(store, settings, metrics),
        decisions or decision_log(store, settings, metrics),
        tuple(served_names),
        is_ready,
        dict(capacities or {}),
        CanaryWatch(governor),
        reconciler or Reconciler(governor, store.replicas()),
        jobs,
        tuple(adapters),
        door or Door(),
        drain or Drain(),
        (*reasons, lambda: _waits(governor, settings.min_generation)),
    )
    outer: ASGIApp = PolicyMiddleware(inner, server, operations_app(server))
    if settings.log_format == "json":
        outer = AccessLog(outer, unlogged)
    app.middleware_stack = outer
    app.state.lookout = Lookout(server, Prober(server.inside, server))
    return app
