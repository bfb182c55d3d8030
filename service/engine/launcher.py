"""Starting: vLLM's own server with the policy engine inside and the policy middleware outside.

The order is: refuse what is not proven, start the engine, check every rank, activate the policies,
wrap ``generate``, and only then listen. A server that is reachable is steered.
"""

import asyncio
import contextlib
import logging
import socket
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvloop
from fastapi import FastAPI
from vllm import envs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.renderers.chat_utils import load_chat_template
from vllm.utils.argparse_utils import FlexibleArgumentParser

from forward.tables import CapacityError
from service.api.app import decision_log, event_log, job_runner, wrap
from service.api.drain import Drain
from service.api.metrics import Metrics
from service.api.observer import Observer
from service.decisions import DecisionLog
from service.directory import DirectoryState, watch
from service.engine import mergecheck, servecheck
from service.engine.adapters import adapter_names
from service.engine.channel import ChannelError
from service.engine.engine import BootError, PolicyEngine, configure
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.refusals import RefusedOptionError
from service.engine.slots import ActivationError
from service.engine.stopping import EngineDiedError, Stopping
from service.engine.tracks import Tracks
from service.engine.watched import Watching
from service.events import EventLog
from service.governor import REFUSED, Governor
from service.job_runner import JobRunner
from service.prepare import Prepared
from service.prompting import Prompting, templated
from service.reconcile import Reconciler
from service.store import Store

BOOT_REFUSALS = (
    RefusedOptionError,
    BootError,
    ChannelError,
    CapacityError,
    ActivationError,
    MergeError,
    WeightsUnknownError,
    EngineDiedError,
)
"""What ``run`` refuses to serve with, beside the errors of the service itself."""

POLL_SECONDS = 0.05
RETRY_SECONDS = 5.0
PROBE_SECONDS = 2.0
THREADS = 32
"""For what blocks: a database that does not answer holds several for seconds."""

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]


def parse_arguments(prepared: Prepared, vllm_options: Sequence[str]) -> Namespace:
    """Return vLLM's arguments for a model and the user's own options.

    Raises:
        SystemExit: vLLM's parser does not know an option (it prints which).
        RefusedOptionError: An option is not proven with policies.
    """
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="trimtab serve"))
    settings = prepared.settings
    args: Any = parser.parse_args(
        [
            str(prepared.checkpoint),
            *("--host", settings.host, "--port", str(settings.port)),
            *vllm_options,
        ]
    )
    if (args.host, args.port) != (settings.host, settings.port):
        raise RefusedOptionError(
            "--host or --port among vLLM's options is refused: the address that was checked would "
            "not be the one that is bound; give them in full and before any '--'"
        )
    args.model = args.model_tag
    validate_parsed_serve_args(args)
    if args.served_model_name is None:
        args.served_model_name = [settings.model]
    configure(args, prepared.capacities, prepared.gates, settings.merge_layers)
    return args


def run(prepared: Prepared, vllm_options: Sequence[str], announce: Announce) -> None:
    """Serve until a signal ends it; ``announce`` gets a line once requests are answered."""
    args = parse_arguments(prepared, vllm_options)
    uvloop.run(_serve(prepared, args, announce))


@contextlib.asynccontextmanager
async def governed_engine(
    prepared: Prepared, args: Namespace
) -> AsyncGenerator[tuple[PolicyEngine, Governor, Watching]]:
    """Start an engine on ``configure``d arguments, check it and activate the policies.

    Raises:
        BootError: The engine is not what policies need.
        ChannelError: No score would reach this process.
        ServiceError, CapacityError: What is to be active cannot be.
    """
    async with build_async_engine_client(args) as client:
        engine = PolicyEngine(client, prepared.capacities)
        await engine.boot_check()
        model, prompting = prepared.model, prompting_of(prepared, args)
        store, library = prepared.store, prepared.library
        governor = Governor(engine.slots, store, library, model, prompting, engine.merger)
        await servecheck.check_serving(engine)
        await mergecheck.check_merging(engine)
        await governor.start(prepared.directory)
        watching = Watching(Tracks(), lambda: getattr(client, "tokenizer", None))
        receiver = await engine.watch(watching.tracks)
        try:
            engine.install(governor.default_lease, watching)
            yield engine, governor, watching
            await watching.settled()
        finally:
            await receiver.close()


def prompting_of(prepared: Prepared, args: Namespace) -> Prompting:
    """Return how text becomes tokens here: a chat template that is given replaces the model's."""
    given = load_chat_template(args.chat_template)
    return prepared.prompting if given is None else templated(prepared.prompting, given)


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


async def _serve(prepared: Prepared, args: Namespace, announce: Announce) -> None:
    started = time.monotonic()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    listen_address, sock = setup_server(args, reuse_port=False)
    try:
        async with governed_engine(prepared, args) as (engine, governor, watching):
            parts = _Parts.of(prepared, governor)
            watching.sink = Observer(parts.metrics, parts.events)
            app = await _build_app(prepared, args, engine, governor, parts)
            parts.jobs.start()
            beside = (
                _follow(governor, parts.metrics),
                parts.reconciler.run(),
                _mind(prepared.store),
                _tell_when_ready(app, listen_address, started, announce),
                _heed(app, engine, parts.drain, prepared.settings.drain_seconds),
            )
            tasks = [asyncio.create_task(work) for work in beside]
            stopped = await _listen(app, sock, args)
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


async def _mind(store: Store) -> None:
    """Keep what is known of the store's health fresh while nobody uses it."""
    while True:
        await asyncio.to_thread(store.probe)
        await asyncio.sleep(PROBE_SECONDS)


async def _server_of(app: FastAPI) -> Any:
    """Return the HTTP server: ``serve_http`` makes it, and returns only when it has ended."""
    while (server := getattr(app.state, "server", None)) is None:
        await asyncio.sleep(POLL_SECONDS)
    return server


async def _tell_when_ready(app: FastAPI, address: str, started: float, announce: Announce) -> None:
    """Announce once the server listens."""
    server = await _server_of(app)
    while not server.started:
        await asyncio.sleep(POLL_SECONDS)
    announce(f"ready on {address} after {time.monotonic() - started:.0f} s")


async def _build_app(
    prepared: Prepared,
    args: Namespace,
    engine: PolicyEngine,
    governor: Governor,
    parts: _Parts,
) -> FastAPI:
    client, door = engine.client, engine.door
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await _init_state(client, app, args, tasks)
    return wrap(
        app,
        governor,
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


async def _listen(app: FastAPI, sock: socket.socket, args: Namespace) -> Awaitable[None]:
    options = {}
    log_config = get_uvicorn_log_config(args)
    if log_config is not None:
        options["log_config"] = log_config
    return await serve_http(
        app,
        sock=sock,
        enable_ssl_refresh=args.enable_ssl_refresh,
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
