"""A server goes on whole or not at all: what its supervisor does when processes end."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest

from service.engine.processes import Watch
from service.engine.stopping import ProcessDiedError

DRAIN_SECONDS = 1.0


def serve(words: Connection, number: int, code: int = 0, is_deaf: bool = False) -> None:
    """Serve until a signal asks, as an API process does."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: None if is_deaf else told.append(1))
    words.send(f"{number} serves")
    while not told:
        time.sleep(0.01)
    os._exit(code)


class Server:
    """Two API processes and an engine."""

    def __init__(self, codes: Sequence[int] = (0, 0), is_deaf: bool = False) -> None:
        context = multiprocessing.get_context("fork")
        self.words, told = context.Pipe(duplex=False)
        self.servers = [
            context.Process(target=serve, args=(told, number, code, is_deaf), name=f"Api_{number}")
            for number, code in enumerate(codes)
        ]
        self.engine = context.Process(target=serve, args=(told, 9), name="Engine")
        self.heard: list[str] = []
        self.watch = Watch(DRAIN_SECONDS)
        for process in self.all:
            process.start()

    @property
    def all(self) -> list[BaseProcess]:
        return [*self.servers, self.engine]

    def stay(self, then: Callable[[], None]) -> None:
        """Stay with the processes, and do something once all serve."""

        def act() -> None:
            while len(self.heard) < len(self.all):
                time.sleep(0.01)
            then()

        acting = threading.Thread(target=act)
        acting.start()
        try:
            self.watch.stay(self.servers, [self.engine], self.words, self.heard.append)
        finally:
            acting.join()
            for process in self.all:
                process.kill()
                process.join()


@pytest.fixture(autouse=True)
def handlers() -> object:
    """Put back what a watch takes over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signalled(server: Server) -> Callable[[], None]:
    server.watch.heed_signals()
    return lambda: os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_handed_on_and_all_end_well() -> None:
    server = Server()
    server.stay(signalled(server))
    assert [process.exitcode for process in server.servers] == [0, 0]
    assert sorted(server.heard) == ["0 serves", "1 serves", "9 serves"]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["first", "second", "engine"])
def test_a_process_that_is_killed_fails_the_server(number: int) -> None:
    server = Server()
    victim = server.all[number]
    with pytest.raises(ProcessDiedError, match=f"{victim.name} ended with exit code -9"):
        server.stay(victim.kill)


def test_a_process_that_ends_by_itself_fails_the_server_even_if_it_ends_well() -> None:
    server = Server()
    with pytest.raises(ProcessDiedError, match="Api_1 ended with exit code 0"):
        server.stay(server.servers[1].terminate)


def test_a_process_that_does_not_end_well_at_a_signal_fails_the_server() -> None:
    server = Server(codes=(0, 3))
    with pytest.raises(ProcessDiedError, match="Api_1 ended with exit code 3"):
        server.stay(signalled(server))


def test_processes_that_do_not_end_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.processes.END_SECONDS", 0.5)
    server = Server(is_deaf=True)
    started = time.monotonic()
    with pytest.raises(ProcessDiedError, match="did not end in time"):
        server.stay(signalled(server))
    assert time.monotonic() - started < DRAIN_SECONDS + 5


def test_a_signal_before_anybody_serves_ends_the_start() -> None:
    Watch(DRAIN_SECONDS).heed_signals()
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 128 + signal.SIGTERM
