"""What counts as an answer under a policy, and servers that are none: nothing gives a figure."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from editing.phrasings import Phrasing
from service.commands.edit import app
from service.commands.edit_live import notes_of
from service.live_server import LiveError, LiveServer, Ran
from service.live_speaker import LiveSpeaker, refuse_unlike, same
from tests.models import build_tokenizer

ASKED = [(Phrasing("w10 w11"), "w12")]
CHOICE = {"text": "w9", "finish_reason": "length"}
LIKELY = [None, {"10": {"logprob": -1.0}}, {"11": {"logprob": -1.0}}, {"12": {"logprob": -2.0}}]


def ran(*policies: str, digest: str = "d") -> Ran:
    return Ran(policies, digest)


def test_an_answer_counts_under_the_policy_that_was_asked_for() -> None:
    first = same("moved", None, None, ran("guard@2", "moved@3"))
    assert first == same("moved", 3, first, ran("guard@2", "moved@3"))
    assert same("none", None, None, ran()) == ran()
    assert str(first) == "guard@2, moved@3" and str(ran()) == "none"


@pytest.mark.parametrize(
    ("policy", "revision", "before", "now", "why"),
    [
        ("moved", None, None, ran(), "ran under none"),
        ("moved", None, None, ran("moved@3", "other@1"), "ran under moved@3, other@1"),
        ("moved", None, None, ran("moved-b@1"), "ran under moved-b@1"),
        ("moved", 3, None, ran("moved@4"), r"from moved@3 to moved@4"),
        ("moved", None, ran("moved@3"), ran("moved@4"), r"from moved@3 to moved@4"),
        ("moved", 3, ran("moved@3"), ran("guard@1", "moved@3"), "policies changed"),
        ("moved", 3, ran("moved@3"), ran("moved@3", digest="e"), "policies changed"),
        ("none", None, ran(), ran("careful@1"), "policies changed"),
    ],
)
def test_no_other_answer_counts(policy, revision, before, now, why) -> None:
    with pytest.raises(LiveError, match=why):
        same(policy, revision, before, now)


def test_a_baseline_differs_by_the_policy_alone() -> None:
    refuse_unlike(ran("guard@1"), ran("guard@1", "moved@2"), "moved")
    for baseline in (ran("careful@1"), ran("guard@2"), ran()):
        with pytest.raises(LiveError, match="more than the policy"):
            refuse_unlike(baseline, ran("guard@1", "moved@2"), "moved")


@contextmanager
def answering(body: Any, status: int = 200, **headers: str) -> Generator[str]:
    """A real server that says one thing whatever it is asked; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def told(url: str) -> Any:
    with LiveServer(url) as server:
        return LiveSpeaker(server, "m", build_tokenizer(), "moved").tell(ASKED)


def choice(likely: Any = LIKELY, **fields: Any) -> dict[str, Any]:
    return {"choices": [CHOICE | {"prompt_logprobs": likely} | fields]}


UNDER = {"x_trimtab_policy": "moved@1", "x_trimtab_digest": "d"}


def test_what_is_told_is_that_of_the_target() -> None:
    with answering(choice(), **UNDER) as url:
        assert [(one.nll, one.right) for one in told(url)] == [(2.0, (True,))]
    for other, right in ((-2.5, True), (-2.0, False), (-1.5, False)):
        entries = {"12": {"logprob": -2.0}, "40": {"logprob": other}}
        with answering(choice([*LIKELY[:3], entries]), **UNDER) as url:
            assert told(url)[0].right == (right,)


@pytest.mark.parametrize(
    ("body", "status", "headers", "why"),
    [
        (choice(), 200, {}, "has no header X-Trimtab-Policy"),
        (choice(), 200, UNDER | {"x_trimtab_policy": "none"}, "'moved' ran under none"),
        (choice(None), 200, UNDER, "no log-probabilities"),
        (choice([]), 200, UNDER, "no log-probabilities"),
        (choice(LIKELY[:3]), 200, UNDER, "no log-probabilities"),
        (choice([*LIKELY[:3], {"13": {"logprob": -1}}]), 200, UNDER, "no log-probabilities"),
        (choice([*LIKELY[:3], {"12": {"logprob": 3}}]), 200, UNDER, "gives logits"),
        (choice(finish_reason="content_filter"), 200, UNDER, "a monitor of the policies"),
        ({"choices": []}, 200, UNDER, "no completion"),
        ("nope", 200, UNDER, "no completion"),
        ({"error": {"message": "no such policy"}}, 404, {}, r"\(404\): no such policy"),
        ("<html>", 502, {}, r"\(502\): <html>"),
    ],
)
def test_servers_that_cannot_be_measured(body, status, headers, why) -> None:
    with answering(body, status, **headers) as url, pytest.raises(LiveError, match=why):
        told(url)


def test_no_server_at_all() -> None:
    with answering({}) as url:
        pass
    with pytest.raises(LiveError, match="no answer from"):
        told(url)
    with pytest.raises(LiveError, match="not a URL"):
        LiveServer("http://here:port")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--policy", "p"), "give --url"),
        (("--policy", "p", "--url", "http://x", "--edit", "e"), "no --edit"),
        (("--policy", "p", "--url", "http://x", "--dir", "."), "--dir is for work here"),
        (("--edit", "e", "--tokenizer", "t"), "is for '--policy'"),
        ((), "--edit is missing"),
    ],
)
def test_options_that_do_not_go_together(options, why, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(app, ["evaluate", "--cases", "c.json", *options])
    assert result.exit_code == 2 and why in result.stderr, result.output


def test_a_server_that_is_not_there(tmp_path) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text('[{"prompt": "{} is", "subject": "w", "target": "x"}]')
    with answering({}) as url:
        pass
    arguments = ["evaluate", "--cases", str(cases), "--policy", "p", "--url", url]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "no answer from" in result.stderr, result.output


def test_notes_say_what_a_figure_is_not() -> None:
    def policy(**spec: Any) -> dict[str, Any]:
        return {"name": "p", "content": {"spec": spec}}

    side, merged = ({"name": serve, "serve": serve} for serve in ("side", "merge"))
    assert notes_of(policy(edits=["e"], steer=[]), [side]) == []
    assert "merge: merged into the weights" in notes_of(policy(), [side, merged])[0]
    assert "'p' steers too" in notes_of(policy(steer=[{"direction": "d"}]), [side])[0]
