"""One API process: vLLM's own HTTP server with the policy middleware outside, and what runs beside.

It listens once its engine is governed (``service.engine.governed``): a process that is reachable
steers.
"""

import asyncio
import logging
import socket
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from vllm import envs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config

from service.api.app import decision_log, event_log, job_runner, wrap
from service.api.drain import Drain
from service.api.metrics import Metrics
from service.api.observer import Observer
from service.decisions import DecisionLog
from service.directory import DirectoryState, watch
from service.engine.adapters import adapter_names
from service.engine.engine import BootError, PolicyEngine
from service.engine.governed import Governed, governed_engine
from service.engine.seat import ALONE, Seat
from service.engine.stopping import EngineDiedError, Stopping
from service.events import EventLog
from service.governor import REFUSED, Governor
from service.job_runner import JobRunner
from service.json_log import unlogged
from service.minding import mind
from service.prepare import Prepared
from service.reconcile import Reconciler

POLL_SECONDS = 0.05
RETRY_SECONDS = 5.0
THREADS = 32
"""For what blocks: a database that does not answer holds several for seconds."""

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Parts:
    """What a server has beside its engine."""

    metrics: Metrics
    events: EventLog
    decisions: DecisionLog
    jobs: JobRunner
    drain: Drain
    reconciler: Reconciler

    @classmethod
    def of(cls, prepared: Prepared, governor: Governor) -> "_Parts":
        store, settings, metrics = prepared.store, prepared.settings, Metrics()
        return cls(
            metrics,
            event_log(store, settings, metrics),
            decision_log(store, settings, metrics),
            job_runner(prepared, governor),
            Drain(),
            Reconciler(governor, store.replicas()),
        )

    async def close(self) -> None:
        await self.reconciler.close()
        await self.events.close()
        await self.decisions.close()


async def serve(
    prepared: Prepared,
    args: Namespace,
    announce: Announce,
    bound: tuple[str, socket.socket],
    seat: Seat = ALONE,
) -> None:
    """Serve until a signal ends it.

    Args:
        prepared: What the server is made of; closed at the end.
        args: vLLM's arguments, ``configure``d.
        announce: Gets a line once all processes answer requests; the first one's is called.
        bound: The address, in words, and its socket; closed at the end.
        seat: Which of the server's processes this is.

    Raises:
        EngineDiedError: The engine died.
        BootError, ChannelError, ServiceError, CapacityError: As ``governed_engine``.
    """
    started = time.monotonic()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    address, sock = bound
    try:
        async with governed_engine(prepared, args, seat) as governed:
            engine, governor = governed.engine, governed.governor
            parts = _Parts.of(prepared, governor)
            governed.watching.sink = Observer(parts.metrics, parts.events)
            app = await _build_app(prepared, args, governed, parts)
            if seat.is_first:
                parts.jobs.start()
            beside = (
                _follow(governor, parts.metrics),
                parts.reconciler.run(),
                mind(prepared.store),
                app.state.lookout.run(seat.is_first),
                _tell_when_ready(app, governed, address, started, announce),
                _heed(app, engine, parts.drain, prepared.settings.drain_seconds),
            )
            tasks = [asyncio.create_task(work) for work in beside]
            stopped = await _listen(app, sock, args, seat)
            for task in tasks:
                task.cancel()
            is_dead = engine.client.errored
            await parts.jobs.close()
        await parts.close()
        await stopped
    finally:
        sock.close()
        prepared.store.close()
    if is_dead:
        raise EngineDiedError("the engine died, and the server ended with it; the log says why")


async def _heed(app: FastAPI, engine: PolicyEngine, drain: Drain, seconds: float) -> None:
    """End the server at a signal, or once its engine is dead."""
    stopping = Stopping(await _server_of(app), drain, seconds)
    stopping.heed_signals()
    await stopping.watch(lambda: engine.client.errored)


async def _server_of(app: FastAPI) -> Any:
    """Return the HTTP server: ``serve_http`` makes it, and returns only when it has ended."""
    while (server := getattr(app.state, "server", None)) is None:
        await asyncio.sleep(POLL_SECONDS)
    return server


async def _tell_when_ready(
    app: FastAPI, governed: Governed, address: str, started: float, announce: Announce
) -> None:
    """Say that this process listens, and announce it where all do."""
    server = await _server_of(app)
    while not server.started:
        await asyncio.sleep(POLL_SECONDS)
    governed.serves()
    while governed.waits() is not None:
        await asyncio.sleep(POLL_SECONDS)
    if governed.seat.is_first:
        announce(f"ready on {address} after {time.monotonic() - started:.0f} s")


async def _build_app(
    prepared: Prepared,
    args: Namespace,
    governed: Governed,
    parts: _Parts,
) -> FastAPI:
    client, door = governed.engine.client, governed.engine.door
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await _init_state(client, app, args, tasks)
    return wrap(
        app,
        governed.governor,
        store=prepared.store,
        settings=prepared.settings,
        served_names=tuple(args.served_model_name),
        is_ready=lambda: not client.errored and not door.is_closed,
        capacities=prepared.capacities,
        api_keys=args.api_key or tuple(filter(None, [envs.VLLM_API_KEY])),
        metrics=parts.metrics,
        events=parts.events,
        decisions=parts.decisions,
        reconciler=parts.reconciler,
        jobs=parts.jobs,
        adapters=adapter_names(args),
        door=door,
        drain=parts.drain,
        reasons=(governed.waits,),
        unlogged=unlogged(args.disable_access_log_for_endpoints or ""),
    )


async def _init_state(client: EngineClient, app: FastAPI, args: Namespace, tasks: Any) -> None:
    """Have vLLM make its handlers; it loads the adapters here.

    Raises:
        BootError: It cannot, with adapters among its options.
    """
    try:
        await init_app_state(client, app.state, args, tasks)
    except ValueError as error:
        if not adapter_names(args):
            raise
        raise BootError(f"vLLM does not serve with these --lora-modules: {error}") from error


async def _listen(
    app: FastAPI, sock: socket.socket, args: Namespace, seat: Seat
) -> Awaitable[None]:
    options = {}
    log_config = get_uvicorn_log_config(args)
    if log_config is not None:
        options["log_config"] = log_config
    return await serve_http(
        app,
        sock=sock,
        enable_ssl_refresh=args.enable_ssl_refresh,
        peer_loads=seat.peers,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
        h11_max_incomplete_event_size=args.h11_max_incomplete_event_size,
        h11_max_header_count=args.h11_max_header_count,
        **options,
    )


async def _follow(governor: Governor, metrics: Metrics) -> None:
    """Apply every change of the policy directory; a refused one is tried again now and then."""
    state = governor.directory
    if state is None:
        return
    refused: DirectoryState | None = None
    states = watch(state)
    waiting = asyncio.ensure_future(anext(states))
    while True:
        done, _ = await asyncio.wait({waiting}, timeout=RETRY_SECONDS if refused else None)
        changed = waiting.result() if done else refused
        if done:
            waiting = asyncio.ensure_future(anext(states))
        if changed is not None:
            refused = None if await _reload(governor, metrics, changed) else changed


async def _reload(governor: Governor, metrics: Metrics, state: DirectoryState) -> bool:
    """Return whether a state was taken over; the reason why not is in ``status``."""
    try:
        with metrics.change("directory"):
            await governor.reload(state)
    except (*REFUSED, RuntimeError, OSError) as error:
        logger.warning("the policy directory is not taken over: %s", error)
        return False
    return True
