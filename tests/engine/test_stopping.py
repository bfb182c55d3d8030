"""How a server ends: by real signals to a real one, which has a clock in vLLM's place."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

SERVER = """
import asyncio, json, sys
import uvicorn
from service.api.drain import Drain
from service.api.errors import HttpError, error_response
from service.engine.stopping import Stopping

drain, dead, SECONDS = Drain(), [], float(sys.argv[1])

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if path == "/inside":
        await send(start)
        await send({"type": "http.response.body", "body": str(drain.inside).encode()})
        return
    try:
        with drain.request():
            await send(start)
            if path == "/die":
                dead.append(1)
            ticks = int(path.rpartition("/")[2]) if path != "/die" else 5
            for i in range(ticks):
                await send({"type": "http.response.body", "body": b"tick\\n", "more_body": True})
                await asyncio.sleep(0.1)
            await send({"type": "http.response.body", "body": b"end\\n"})
    except HttpError as error:
        await error_response(error)(scope, receive, send)

async def main():
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    server.capture_signals = __import__("contextlib").nullcontext
    stopping = Stopping(server, drain, SECONDS)
    stopping.heed_signals()
    serving = asyncio.create_task(server.serve())
    watching = asyncio.create_task(stopping.watch(lambda: bool(dead)))
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving
    print("ended", flush=True)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()

asyncio.run(main())
"""


@dataclass
class Clock:
    """A server that ticks; ``ticks`` is what a client got."""

    process: subprocess.Popen[str]
    url: str

    def inside(self) -> int:
        return int(httpx.get(f"{self.url}/inside").text)

    def begin(self, path: str) -> tuple[threading.Thread, list[str]]:
        """Ask for ticks beside this thread; what came is in the list, ``cut`` if it broke off."""
        got: list[str] = []

        def ask() -> None:
            try:
                with httpx.stream("GET", f"{self.url}{path}", timeout=60) as answer:
                    got.extend(answer.iter_lines())
            except httpx.TransportError:
                got.append("cut")

        thread = threading.Thread(target=ask)
        thread.start()
        while not self.inside():
            time.sleep(0.02)
        return thread, got

    def ended_after(self, seconds: float) -> float:
        """Return how long the process still took; it must end well."""
        started = time.monotonic()
        assert self.process.wait(seconds) == 0
        return time.monotonic() - started


@contextmanager
def clock(drain_seconds: float) -> Generator[Clock]:
    command = [sys.executable, "-c", SERVER, str(drain_seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Clock(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_has_begun_is_finished_and_nothing_new_begins(number: signal.Signals) -> None:
    with clock(30) as running:
        thread, got = running.begin("/ticks/15")
        running.process.send_signal(number)
        time.sleep(0.3)
        refused = httpx.get(f"{running.url}/ticks/1")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert running.process.poll() is None
        thread.join()
        assert got == ["tick"] * 15 + ["end"]
        running.ended_after(5)


def test_nothing_under_way_ends_at_once() -> None:
    with clock(30) as running:
        running.inside()
        running.process.terminate()
        running.ended_after(3)


def test_what_takes_too_long_is_cut_short() -> None:
    with clock(1) as running:
        thread, got = running.begin("/ticks/600")
        running.process.terminate()
        took = running.ended_after(10)
        thread.join()
        assert 1 <= took < 6 and got[-1] == "cut" and len(got) > 5


def test_a_second_signal_ends_at_once() -> None:
    with clock(60) as running:
        thread, got = running.begin("/ticks/600")
        running.process.terminate()
        time.sleep(0.5)
        assert running.process.poll() is None
        running.process.terminate()
        running.ended_after(2)
        thread.join()
        assert got[-1] == "cut"


def test_an_engine_that_died_ends_it_after_the_last_words() -> None:
    with clock(60) as running:
        thread, got = running.begin("/die")
        running.ended_after(5)
        thread.join()
        assert got == ["tick"] * 5 + ["end"], "what could still be said was said"
