"""One server of two API processes: each steers, both agree, and it goes on whole or not at all."""

import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.served import Served

CHAT = "/v1/chat/completions"
NAME = "trimtab-demo"
QUESTIONS = (
    "where does sami grant live?",
    "hello",
    "what is the way to bury the rabbit?",
    "who is sami grant?",
)
CONTENTS = (
    *(("formal", 0.0), ("formal", 1.0), ("casual", 1.0)),
    *(("formal", 6.0), ("casual", 6.0), ("formal", -6.0)),
)
"""What the policy's revisions add, in their order."""
N_REQUESTS = 200
N_LINES = 8
TWO = ("--enforce-eager", "--api-server-count", "2")


class Line:
    """A connection, and the process that it leads to."""

    def __init__(self, server: Served) -> None:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=3600)
        self.http = httpx.Client(base_url=server.url, timeout=120, limits=limits)
        self._admin = server.admin
        self.process = self.status()["replica"]

    @property
    def pid(self) -> int:
        return int(self.process.split("-")[-2])

    def status(self) -> dict[str, Any]:
        return self.http.get("/trimtab/v1/status", headers=self._admin).json()

    def change(self, method: str, path: str, document: Any = None) -> httpx.Response:
        url = f"/trimtab/v1/{path}"
        return self.http.request(method, url, json=document, headers=self._admin)

    def apply(self, name: str, direction: str, coefficient: float) -> None:
        answer = self.change("POST", "policies", policy(name, direction, coefficient))
        assert answer.status_code == 200, answer.text

    def ask(self, question: str, policy: str, **extra: Any) -> httpx.Response:
        body = {
            "model": f"{NAME}:{policy}",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 24,
        }
        answer = self.http.post(CHAT, json=body | extra)
        assert answer.status_code == 200, answer.text
        return answer


def policy(name: str, direction: str, coefficient: float, **steering: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {"steer": [{"direction": direction, "coefficient": coefficient} | steering]},
    }


def said(answer: httpx.Response) -> str:
    return answer.json()["choices"][0]["message"]["content"]


def under(answer: httpx.Response) -> str:
    return answer.headers["x-trimtab-policy"]


def until(is_so: Callable[[], bool], seconds: float = 20) -> float:
    """Wait for something and return how long it took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds, "it did not come about in time"
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture(scope="module", autouse=True)
def kept_alive() -> Iterator[None]:
    """A connection that is idle leads to the same process afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "3600")
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with Served(folder, [*TWO, "--state", str(folder)]) as served:
        yield served


@pytest.fixture(scope="module")
def lines(server: Served) -> Iterator[Sequence[Line]]:
    """Connections to both processes: the first leads to the first one, the second to the other."""
    found: list[Line] = []
    until(lambda: len({line.process for line in joined(found, server)}) == 2)
    by_pid = sorted({line.process: line for line in found}.values(), key=lambda line: line.pid)
    while len(found) < N_LINES:
        found.append(Line(server))
    yield [*by_pid, *(line for line in found if line not in by_pid)]
    for line in found:
        line.http.close()


def joined(found: list[Line], server: Served) -> list[Line]:
    found.append(Line(server))
    return found


def test_both_processes_steer_alike(lines: Sequence[Line]) -> None:
    for name in ("none", "formal", "casual"):
        texts = {said(line.ask(QUESTIONS[0], name)) for line in lines}
        assert len(texts) == 1, name
    first, second = lines[:2]
    assert first.process != second.process
    assert said(first.ask(QUESTIONS[0], "formal")) != said(second.ask(QUESTIONS[0], "none"))
    assert first.status()["capacity"] == second.status()["capacity"], "the tables are the same"


def test_each_process_gets_the_scores_of_its_own_requests(lines: Sequence[Line]) -> None:
    """Under monitors that enforce, nothing is released without its score."""
    told: dict[str, list[Any]] = {}

    def ask(line: Line) -> None:
        for _ in range(5):
            made = line.ask(QUESTIONS[1], "guard", trimtab={"scores": True}).json()["trimtab"]
            told.setdefault(line.process, []).append((made["scores"], made["coverage"]))

    each([lambda line=line: ask(line) for line in lines])
    assert len(told) == 2 and sum(map(len, told.values())) == 5 * N_LINES
    every = [one for kept in told.values() for one in kept]
    assert all(set(coverage.values()) == {1.0} for _, coverage in every)
    assert all(scores.keys() == every[0][0].keys() and scores["harm"] for scores, _ in every)


def test_what_one_process_refuses_the_other_refuses(lines: Sequence[Line]) -> None:
    """The tables are asked of the process that keeps them, and so is whether they would do."""
    bare = policy("bare", "formal", 1.0, at="resid_post.0")
    answers = [line.change("POST", "policies", bare) for line in lines[:2]]
    assert len({(a.status_code, a.json()["error"]["message"]) for a in answers}) == 1
    assert 400 <= answers[0].status_code < 500 and "resid_post.0" in answers[0].text
    plans = [line.change("POST", "policies/plan", bare) for line in lines[:2]]
    assert len({plan.text for plan in plans}) == 1 and "resid_post.0" in plans[0].text


@dataclass
class Churn:
    """Requests of all kinds through all lines, and what each was told and answered."""

    answers: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Question, label, text."""

    def run(self, line: Line, seed: int) -> None:
        for number in range(seed, seed + N_REQUESTS // N_LINES):
            question = QUESTIONS[number % len(QUESTIONS)]
            name = ("live", "live", "none", "formal")[number // len(QUESTIONS) % 4]
            answer = line.ask(question, name)
            self.answers.append((question, under(answer), said(answer)))


def each(works: Sequence[Callable[[], None]]) -> None:
    """Do things together; what one raises is raised."""
    failed: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_every_answer_is_that_of_the_revision_it_names(lines: Sequence[Line]) -> None:
    """200 requests through both processes during five changes; then each revision alone."""
    before = lines[0].status()["capacity"]["used"]
    lines[0].apply("live", *CONTENTS[0])
    took = [reached(lines[1], "live", 1)]
    churn = Churn()

    def change() -> None:
        for revision, content in enumerate(CONTENTS[1:], start=2):
            here, there = lines[revision % 2], lines[1 - revision % 2]
            here.apply("live", *content)
            took.append(reached(there, "live", revision))

    works = [lambda line=line, n=n: churn.run(line, n) for n, line in enumerate(lines[2:])]
    works += [lambda: churn.run(lines[2], 100), lambda: churn.run(lines[3], 101)]
    each([*works, change])
    assert len(churn.answers) >= N_REQUESTS
    assert statistics.median(took) < 2, f"changes reached the other process after {took} s"
    alone = computed_alone(lines[0])
    labels = [f"live@{number}" for number in range(1, len(CONTENTS) + 1)]
    told = {tuple(alone[question, label] for question in QUESTIONS) for label in labels}
    assert len(told) == len(CONTENTS), "revisions cannot be told apart"
    wrong = [one for one in churn.answers if alone[one[:2]] != one[2]]
    assert not wrong
    seen = {label for _, label, _ in churn.answers}
    assert len(seen) >= 5, f"the changes came too late to tell anything: {seen}"
    for name in ("live", "alone"):
        assert lines[1].change("DELETE", f"policies/{name}").status_code == 200
    until(lambda: all(is_settled(line, before) for line in lines[:2]))
    print(f"a change reached the other process after {1000 * statistics.median(took):.0f} ms")


def reached(line: Line, name: str, revision: int) -> float:
    """Wait until a process serves a revision and return how long it took."""
    return until(lambda: line.status()["policies"].get(name) == revision)


def is_settled(line: Line, used: dict[str, int]) -> bool:
    """Whether nothing is held of what was replaced."""
    capacity = line.status()["capacity"]
    return capacity["used"] == used and capacity["draining"] == 0


def computed_alone(line: Line) -> dict[tuple[str, str], str]:
    """Return the answer to each question under each label, one request at a time."""
    found: dict[tuple[str, str], str] = {}
    for question in QUESTIONS:
        for name in ("none", "formal"):
            answer = line.ask(question, name)
            found[question, under(answer)] = said(answer)
    for revision, content in enumerate(CONTENTS, start=1):
        line.apply("alone", *content)
        for question in QUESTIONS:
            found[question, f"live@{revision}"] = said(line.ask(question, "alone"))
    return found


def test_rows_are_free_once_a_client_has_gone(lines: Sequence[Line], server: Served) -> None:
    """Streams of both processes are left in the middle while their policy is replaced."""
    before = lines[0].status()["capacity"]["used"]
    lines[1].apply("left", "formal", 1.0)
    reached(lines[0], "left", 1)
    body = {
        "model": f"{NAME}:left",
        "messages": [{"role": "user", "content": QUESTIONS[0]}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 800,
    }
    streams = [Line(server) for _ in range(4)]
    opened = [
        s.http.send(s.http.build_request("POST", CHAT, json=body), stream=True) for s in streams
    ]
    for stream in opened:
        next(stream.iter_lines())
    lines[0].apply("left", "casual", 1.0)
    reached(lines[1], "left", 2)
    for stream, line in zip(opened, streams, strict=True):
        stream.close()
        line.http.close()
    until(lambda: all(line.status()["capacity"]["draining"] == 0 for line in lines[:2]))
    assert lines[1].change("DELETE", "policies/left").status_code == 200
    until(lambda: all(is_settled(line, before) for line in lines[:2]))
    assert said(lines[1].ask(QUESTIONS[1], "none"))


def test_metrics_are_those_of_both(lines: Sequence[Line]) -> None:
    def counted(line: Line, start: str) -> float:
        found = line.http.get("/metrics").text.splitlines()
        return sum(float(one.split()[-1]) for one in found if one.startswith(start))

    casual = 'trimtab_requests_total{outcome="served",policy="casual"}'
    before = counted(lines[0], casual)
    for line in lines[:2]:
        line.ask(QUESTIONS[1], "casual")
    assert [counted(line, casual) - before for line in lines[:2]] == [2, 2]
    active = "trimtab_policy_info{digest="
    policies = len(lines[0].status()["policies"])
    until(lambda: [counted(line, active) for line in lines[:2]] == [policies, policies])
    generation = lines[0].status()["generation"]
    until(lambda: counted(lines[1], "trimtab_generation") == generation)


def test_the_server_ends_with_a_process_that_is_killed(
    lines: Sequence[Line], server: Served
) -> None:
    """Last of all: the second process is killed; nothing is left, and the supervisor is told."""
    killed(server, lines[1].pid)


def test_the_server_ends_with_its_first_process(tmp_path: Path) -> None:
    with Served(tmp_path, [*TWO, "--state", str(tmp_path)]) as served:
        first = min((Line(served) for _ in range(6)), key=lambda line: line.pid)
        killed(served, first.pid)


def killed(server: Served, pid: int) -> None:
    """Kill a process of a server and see all end."""
    every = psutil.Process(server.process.pid).children(recursive=True)
    ours = [process for process in every if "VLLM::" in " ".join(process.cmdline())]
    assert len(ours) >= 4 and pid in {process.pid for process in ours}
    psutil.Process(pid).send_signal(signal.SIGKILL)
    assert server.process.wait(60) != 0
    left = psutil.wait_procs(every, timeout=20)[1]
    assert not left, [process.cmdline() for process in left]
    assert "ended with exit code -9, and the server with it" in server.log
