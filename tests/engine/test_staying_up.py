"""Real servers that lose their client, their store, their engine or their life."""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.processes import left_of
from tests.served import Served

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
LONG: dict[str, Any] = HELLO | {"ignore_eos": True, "max_tokens": 900}
ROUTES: dict[str, dict[str, Any]] = {
    CHAT: LONG,
    "/v1/completions": {"prompt": "hello", "ignore_eos": True, "max_tokens": 900},
    "/v1/responses": {"input": "hello", "ignore_eos": True, "max_output_tokens": 900},
}
POLICY = {
    "apiVersion": "trimtab/v1",
    "kind": "Policy",
    "metadata": {"name": "live"},
    "spec": {"steer": [{"direction": "formal", "coefficient": 1}]},
}


@contextmanager
def served(folder: Path, *arguments: str) -> Generator[Served]:
    with Served(folder, ["--enforce-eager", "--state", str(folder), *arguments]) as server:
        yield server


def children(server: Served) -> list[psutil.Process]:
    """Return the processes of the engine, which are the server's but for multiprocessing's own."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in found if "VLLM::" in child.name() + " ".join(child.cmdline())]


def until(is_so: Callable[[], bool], seconds: float = 20) -> float:
    """Wait for something and return how long it took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds, "it did not come about in time"
        time.sleep(0.02)
    return time.monotonic() - started


def running(server: Served) -> int:
    """Return how many requests the engine has, by its own count."""
    lines = server.http.get("/metrics").text.splitlines()
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(names)))


def status(server: Served) -> dict[str, Any]:
    return server.http.get("/trimtab/v1/status", headers=server.admin).json()


def decision(server: Served, name: str) -> dict[str, Any]:
    """Return a record once it is written."""
    path, found = f"/trimtab/v1/decisions/{name}", list[dict[str, Any]]()

    def is_there() -> bool:
        answer = server.http.get(path, headers=server.admin)
        found.extend([answer.json()] if answer.is_success else [])
        return bool(found)

    until(is_there)
    return found[0]


def test_what_a_server_bears_and_how_it_ends(tmp_path: Path) -> None:
    with served(tmp_path, "--drain-seconds", "60") as server:
        a_client_that_leaves_is_not_worked_for(server)
        records_are_found_by_the_answers_id(server)
        a_store_that_is_gone_stops_changes_alone(server, tmp_path / "trimtab.db")
        a_signal_lets_streams_finish(server)
        assert server.process.wait(60) == 0


def a_client_that_leaves_is_not_worked_for(server: Served) -> None:
    for stream in (True, False):
        with httpx.Client(base_url=server.url, timeout=0.3 if not stream else 30) as client:
            try:
                with client.stream("POST", CHAT, json=LONG | {"stream": stream}) as answer:
                    for _ in answer.iter_lines():
                        break
            except httpx.ReadTimeout:
                assert not stream
        until(lambda: running(server) == 0)
    page = server.http.get("/trimtab/v1/decisions?limit=1000", headers=server.admin).json()
    listed = [one for one in page["decisions"] if one["probe"] is None]
    assert [one["outcome"] for one in listed] == ["aborted", "aborted"]
    assert [one["choices"] for one in listed] == [[], []], "no choice was ended"


def records_are_found_by_the_answers_id(server: Served) -> None:
    short = {CHAT: HELLO, "/v1/completions": {"prompt": "hello"}, "/v1/responses": {"input": "hi"}}
    short["/v1/messages"] = HELLO | {"model": "trimtab-demo:formal", "max_tokens": 8}
    for path, body in short.items():
        asked = {"model": "trimtab-demo:formal", "n": 1} | body
        answer = server.http.post(path, json=asked)
        assert answer.status_code == 200, answer.text
        found = decision(server, answer.json()["id"])
        assert found["request"] == answer.headers["x-trimtab-request"], path
        labels = ", ".join(one["policy"] for one in found["policies"])
        assert labels == answer.headers["x-trimtab-policy"]
        assert found["digest"] == answer.headers["x-trimtab-digest"]
        assert [c["finish"] for c in found["choices"]] in (["stop"], ["length"])
    watched = {"model": "trimtab-demo:guard", "n": 2, "max_tokens": 8} | HELLO
    answer = server.http.post(CHAT, json=watched)
    found = decision(server, answer.json()["id"])
    assert [c["index"] for c in found["choices"]] == [0, 1]
    told = [c["finish_reason"] for c in answer.json()["choices"]]
    assert [c["finish"] for c in found["choices"]] == told
    for choice in found["choices"]:
        assert choice["verdicts"] and all("coverage" in v for v in choice["verdicts"].values())


def a_store_that_is_gone_stops_changes_alone(server: Served, file: Path) -> None:
    away = file.rename(file.with_name("away.db"))
    refused = server.http.post("/trimtab/v1/policies", json=POLICY, headers=server.admin)
    assert refused.status_code == 503, refused.text
    assert "is gone" in refused.json()["error"]["message"]
    answer = server.http.post(CHAT, json=HELLO | {"model": "trimtab-demo:formal"})
    assert answer.headers["x-trimtab-policy"] == "formal@1"
    told = status(server)["store"]
    assert (told["ok"], "is gone" in told["error"]) == (False, True) and told["since"]
    assert "trimtab_store_up 0.0" in server.http.get("/metrics").text
    assert server.is_ready(), "last good serves"
    away.rename(file)
    until(lambda: status(server)["store"]["ok"])
    applied = server.http.post("/trimtab/v1/policies", json=POLICY, headers=server.admin)
    assert applied.status_code == 200, applied.text
    assert decision(server, answer.headers["x-trimtab-request"])["outcome"] == "served"


def a_signal_lets_streams_finish(server: Served) -> None:
    """Ready no more at once, nothing new, what runs runs to its end."""
    asked = LONG | {"stream": True, "max_tokens": 300}
    streams = [Stream(server, CHAT, asked) for _ in range(3)]
    until(lambda: all(len(stream.lines) > 5 for stream in streams))
    server.process.send_signal(signal.SIGTERM)
    until(lambda: not server.is_ready())
    ready = server.http.get("/readyz")
    assert ready.json()["reasons"] == ["the server is ending: it finishes what it has begun"]
    refused = server.http.post(CHAT, json=HELLO)
    assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert server.process.poll() is None
    for stream in streams:
        stream.thread.join(60)
        assert stream.lines[-1] == "data: [DONE]" and stream.fault is None
        assert any('"finish_reason":"length"' in line for line in stream.lines)


class Stream:
    """An answer that is read beside the test; ``fault`` is what broke it off."""

    def __init__(self, server: Served, path: str, body: dict[str, Any]) -> None:
        self.path, self.lines, self.status = path, list[str](), 0
        self.fault: Exception | None = None
        self.thread = threading.Thread(target=self._read, args=(server.url, body))
        self.thread.start()

    def _read(self, url: str, body: dict[str, Any]) -> None:
        try:
            with httpx.stream("POST", f"{url}{self.path}", json=body, timeout=60) as answer:
                self.status = answer.status_code
                self.lines.extend(line for line in answer.iter_lines() if line)
        except httpx.TransportError as error:
            self.fault = error


def test_a_dead_engine_ends_its_requests_and_its_server(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        engine = children(server)
        answers = [
            Stream(server, path, body | {"stream": stream})
            for path, body in ROUTES.items()
            for stream in (True, False)
        ]
        until(lambda: running(server) == len(answers))
        [core] = [process for process in engine if "EngineCore" in " ".join(process.cmdline())]
        core.kill()
        assert server.process.wait(30) == 1, "a supervisor is to start it again"
        for answer in answers:
            answer.thread.join(30)
            assert answer.fault is None, answer.path
            text = "\n".join(answer.lines)
            assert (answer.status == 503) or "data: " in text
            assert '"error"' in text and "ngine" in text, (answer.path, answer.lines[-3:])
        assert not left_of(engine)
        assert "the engine died" in server.log


def test_a_killed_server_leaves_no_engine_behind(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        engine = children(server)
        assert len(engine) >= 1
        answer = Stream(server, CHAT, LONG | {"stream": True})
        until(lambda: len(answer.lines) > 5)
        server.process.kill()
        server.process.wait()
        assert not left_of(engine)
        answer.thread.join(30)
