"""``trimtab edit`` on a running server: the program, a socket, real jobs."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service import cli
from service.commands.edit_server import document
from service.commands.output import CommandError
from tests.service.api.edit_world import edit_world
from tests.service.api.world import KEY
from tests.service.solving import CASE, LOOSE, edit_set, fact

QUICK = ("--tokens", "600", "--prefixes", "1")
OVERRIDE = tuple(part for name in LOOSE for part in ("--override", name))
Call = Callable[..., "Done"]


class Done:
    """How a call ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the program with the server's key."""
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["trimtab", "edit", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Iterator[str]:
    """The URL of a server of a tiny model."""
    folder, model = tmp_path_factory.mktemp("state"), checkpoint("llama")
    started: list[uvicorn.Server] = []

    async def serve() -> None:
        async with edit_world(model, folder) as world:
            options = {"port": 0, "log_level": "error", "lifespan": "off"}
            started.append(uvicorn.Server(uvicorn.Config(world.app, **options)))
            await started[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not (started and started[0].started):
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{started[0].servers[0].sockets[0].getsockname()[1]}"
    started[0].should_exit = True
    thread.join()


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """A file with the facts of a set ``moves``, without a document around them."""
    path = tmp_path / "moves.yaml"
    path.write_text(json.dumps(edit_set()["spec"]["facts"]))
    return path


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(json.dumps(CASE) for _ in range(3)))
    return path


def test_from_facts_to_removal(
    call: Call, server: str, facts: Path, cases: Path, tmp_path: Path
) -> None:
    url = ("--url", server)
    solve = ("solve", "--facts", facts, "--layer", 1, *url, *OVERRIDE)
    solved = call(*solve, *QUICK, "--cases", cases)
    assert solved.code == 0, solved.err
    for said in ("moves, succeeded", "memit at layers 1, rank 2", "w60 w90", "EM", "3 cases"):
        assert said in solved.out
    (listed,) = call("list", *url, "--json").json
    assert (listed["name"], listed["solved"], listed["n_facts"]) == ("moves", True, 2)
    assert "overridden: growth" in call("list", *url).out

    jobs = call("jobs", *url, "--json").json
    assert [(job["id"], job["state"]) for job in jobs] == [(1, "succeeded")]
    assert "edit-solve" in call("jobs", *url).out
    assert call("jobs", 1, *url, "--json").json["result"]["artifact"] == listed["artifact"]
    card = tmp_path / "card.html"
    assert call("jobs", 1, *url, "--card", card).code == 0
    assert "<svg" in card.read_text()
    assert "no card of job 9" in call("jobs", 9, *url, "--card", card).err

    again = call(*solve, "--json")
    assert (again.code, again.json["result"]["cached"]) == (0, True)

    scored = call("evaluate", "--edit", "moves", "--cases", cases, "--limit", 1, *url, "--json")
    scores = scored.json["result"]["scores"]
    assert (scored.code, scores["cases"]) == (0, 1)
    assert scores["edited"]["EM"]["value"] > scores["unedited"]["EM"]["value"]

    digest = next(
        f["digest"]
        for f in call("jobs", 1, *url, "--json").json["result"]["edit"]["facts"]
        if f["subject"] == "w60 w90"
    )
    left = call("remove", "--edit", "moves", "--fact", digest[:12], *url, *OVERRIDE)
    assert left.code == 0, left.err
    assert "w61 w91" in left.out and "w60 w90" not in left.out
    first, second = (call("jobs", n, *url, "--json").json["result"]["edit"] for n in (1, 4))
    assert second["settings"] == first["settings"], "it is solved as it was solved before"
    wrong = call("remove", "--edit", "moves", "--fact", "00", *url)
    assert (wrong.code, "facts begin with '00'" in wrong.err) == (1, True)
    whole = call("remove", "--edit", "moves", *url)
    assert (whole.code, whole.out) == (0, "edit moves is removed\n")
    gone = call("remove", "--edit", "moves", *url)
    assert (gone.code, "there is no edit set 'moves'" in gone.err) == (1, True)


def test_a_job_that_fails_is_exit_code_1(call: Call, server: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(edit_set("bad", facts=[fact(0, target="ééé")])))
    failed = call("solve", "--facts", bad, "--url", server, *QUICK, "--json")
    assert (failed.code, failed.json["state"]) == (1, "failed")
    assert "does not know target" in failed.json["error"]
    shown = call("jobs", failed.json["id"], "--url", server)
    assert shown.code == 1 and "does not know target" in shown.err
    refused = tmp_path / "refused.json"
    refused.write_text(json.dumps(edit_set("bad", facts=[fact(0, prompt="w20 w21")])))
    at_once = call("solve", "--facts", refused, "--url", server)
    assert (at_once.code, "is not in the prompt" in at_once.err) == (1, True)


def test_a_job_need_not_be_waited_for_and_can_be_cancelled(
    call: Call, server: str, facts: Path
) -> None:
    url = ("--url", server)
    slow = ("--steps", 1000, "--stop", 0, "--name", "slow", "--layer", 2)
    asked = call("solve", "--facts", facts, *url, *slow, *QUICK, "--no-wait", "--json").json
    assert asked["state"] == "queued"
    cancelled = call("jobs", asked["id"], *url, "--cancel")
    assert (cancelled.code, "is cancelled" in cancelled.out) == (0, True)
    assert asked["id"] in [
        j["id"] for j in call("jobs", *url, "--state", "cancelled", "--json").json
    ]
    twice = call("jobs", asked["id"], *url, "--cancel")
    assert (twice.code, "is over: cancelled" in twice.err) == (1, True)
    assert call("jobs", asked["id"], *url, "--wait").code == 1, "a cancelled job did not succeed"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("solve", "model", "--facts", "f", "--url", "u"), "MODEL is for work here"),
        (("solve", "--facts", "f", "--out", "o", "--url", "u"), "--out is for work here"),
        (("solve", "--facts", "f"), "MODEL is missing"),
        (("solve", "model", "--facts", "f"), "--out is missing"),
        (("solve", "m", "--facts", "f", "--out", "o", "--cases", "c"), "'--cases' is for a"),
        (("evaluate", "--edit", "e", "--cases", "c"), "MODEL is missing"),
        (("list", "--dir", "d", "--url", "u"), "--dir is for work here"),
        (("remove", "m", "--edit", "e", "--out", "o"), "with --fact"),
        (("jobs", "--cancel", "--url", "u"), "give its number"),
        (("jobs", "--state", "done", "--url", "u"), "done"),
    ],
)
def test_what_does_not_go_together_is_exit_code_2(call: Call, arguments, says) -> None:
    done = call(*arguments)
    words = " ".join(done.err.replace("│", " ").split())
    assert (done.code, says in words) == (2, True), done.err


def test_no_server_is_said(call: Call, facts: Path) -> None:
    for line in (("jobs",), ("list",), ("solve", "--facts", facts), ("remove", "--edit", "e")):
        done = call(*line, "--url", "http://127.0.0.1:1")
        assert (done.code, "no answer from" in done.err) == (1, True)


def test_a_file_of_whatever_form_becomes_a_document() -> None:
    facts = [fact(0)]
    known = {"name": "moves", "method": "rome", "layers": [2], "facts": facts}
    whole = document(known, None, None, ())
    assert whole["metadata"] == {"name": "moves"}
    assert whole["spec"] == {"method": "rome", "layers": [2], "facts": facts}
    assert document(whole, None, None, ()) == whole
    changed = document(whole, "other", "memit", [3])
    assert changed["metadata"]["name"] == "other"
    assert (changed["spec"]["method"], changed["spec"]["layers"]) == ("memit", [3])
    assert document(facts, "named", None, ())["spec"] == {"facts": facts}
    with pytest.raises(CommandError, match="no name"):
        document(facts, None, None, ())
    with pytest.raises(CommandError, match="list of facts"):
        document("x", "a", None, ())
