"""The command line, called as a program calls it."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import typer
from safetensors.torch import save
from torch import ones

from service.activation import By
from service.documents import Document
from service.store import Store
from service.views import detail, summary
from tests.service.commanding import Call

Make = Callable[..., Document]
FILE = (
    "apiVersion: trimtab/v1\nkind: Policy\nmetadata: {name: a}\nspec: {mode: off}\n---\n"
    "apiVersion: trimtab/v1\nkind: Binding\nmetadata: {name: default}\nspec: {policy: a}\n"
)


def test_validate_a_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(FILE)
    done = call("policy", "validate", str(tmp_path), "--json")
    assert (done.code, done.json["ok"], done.json["errors"]) == (0, True, [])
    assert [d["name"] for d in done.json["documents"]] == ["a", "default"]
    plain = call("policy", "validate", str(tmp_path))
    assert "2 documents, no problems" in plain.out
    (tmp_path / "p.yaml").write_text(FILE.split("---")[0])
    assert "1 document, no problems" in call("policy", "validate", str(tmp_path)).out


def test_validate_says_where_and_what_instead(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(FILE.replace("mode: off", "mod: off"))
    done = call("policy", "validate", str(file))
    assert (done.code, done.out) == (1, "")
    assert f"{file}:4:8: spec.mod: unknown field 'mod'; did you mean 'mode'?" in done.err
    machine = call("policy", "validate", str(file), "--json")
    assert (machine.code, machine.json["ok"]) == (1, False)
    assert machine.json["errors"][0]["line"] == 4


def test_validate_checks_what_the_binding_names(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(FILE.replace("policy: a", "policy: b"))
    done = call("policy", "validate", str(file))
    assert done.code == 1
    assert "names policy 'b', which is not there" in done.err


def test_a_wrong_command_line_is_code_2(call: Call) -> None:
    for wrong in (["policy", "validate"], ["polcy"], ["policy", "show"], ["policy", "list", "--x"]):
        assert call(*wrong).code == 2, wrong


def test_schema_is_json(call: Call) -> None:
    assert set(call("policy", "schema").json["$defs"]) >= {"Policy", "Binding", "Steer"}


def test_list_and_show_read_a_store(call: Call, tmp_path: Path, policy: Make) -> None:
    with Store.open(str(tmp_path)) as store:
        pin = store.add_artifact(save({"3": ones(2)}), {"kind": "direction", "name": "formal"})
        first = store.record(policy("a"), {"formal": pin}, "api")
        store.record(policy("a", mode="off"), {}, "api")
        store.activate(By("ann"), [first])
    state = ("--state", str(tmp_path))
    listed = call("policy", "list", *state, "--json")
    assert [(p["name"], p["revision"], p["mode"]) for p in listed.json] == [("a", 1, "enforce")]
    assert "a@1" in call("policy", "list", *state).out
    shown = call("policy", "show", "a", *state, "--json").json
    assert (shown["revision"], shown["active"], len(shown["revisions"])) == (1, True, 2)
    assert shown["content"] == first.content
    other = call("policy", "show", "a", "--revision", "2", *state, "--json").json
    assert (other["revision"], other["active"]) == (2, False)
    assert "a@2 (not active)" in call("policy", "show", "a", "--revision", "2", *state).out


def test_errors_of_a_store_have_no_traceback(call: Call, tmp_path: Path) -> None:
    absent = call("policy", "list", "--state", str(tmp_path / "absent"))
    assert (absent.code, absent.out) == (1, "")
    assert absent.err.startswith("error: there is no store at")
    Store.open(str(tmp_path)).close()
    unknown = call("policy", "show", "b", "--state", str(tmp_path))
    assert (unknown.code, unknown.err) == (1, "error: no Policy b was recorded\n")
    both = call("policy", "list", "--state", str(tmp_path), "--url", "http://127.0.0.1:1")
    assert (both.code, "give one of them" in both.err) == (1, True)


@pytest.fixture
def server(policy: Make) -> Iterator[str]:
    """Run a server that answers as the policies API does; its admin key is ``key``."""
    with Store.ephemeral() as store:
        revision = store.record(policy("a"), {}, "directory")
    answers = {
        "/trimtab/v1/policies": (200, {"policies": [summary(revision)]}),
        "/trimtab/v1/policies/a": (200, detail(revision, [revision], True)),
    }
    missing = (404, {"error": {"message": "there is no policy 'b'", "code": "policy_not_found"}})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == "Bearer key"
            status, body = answers.get(self.path, missing) if allowed else (401, {})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_list_and_show_ask_a_server(
    call: Call, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ("--url", server)
    monkeypatch.delenv("TRIMTAB_ADMIN_KEY", raising=False)
    closed = call("policy", "list", *url)
    assert (closed.code, "set TRIMTAB_KEY" in closed.err) == (1, True)
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", "key")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert [p["name"] for p in call("policy", "list", *url, "--json").json] == ["a"]
    assert call("policy", "show", "a", *url, "--json").json["owner"] == "directory"
    assert call("policy", "show", "b", *url).err == "error: there is no policy 'b'\n"


def test_validate_checks_what_policies_watch(call: Call, tmp_path: Path) -> None:
    use = "{monitors: {harm: {mode: shadow, fpr: 0.01, do: log}}}"
    monitor = (
        "apiVersion: trimtab/v1\nkind: Monitor\nmetadata: {name: NAME}\nspec: {read: {probe: p}}"
    )
    file = tmp_path / "p.yaml"
    for name, code in (("harm", 0), ("hram", 1)):
        watched = FILE.replace("{mode: off}", use)
        file.write_text(f"{watched}---\n{monitor.replace('NAME', name)}\n")
        done = call("policy", "validate", str(file))
        assert done.code == code
    assert "names monitor 'harm', which is not there; did you mean 'hram'?" in done.err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ftp://x", "http://[::"])
def test_a_server_that_is_not_there(call: Call, url: str) -> None:
    done = call("policy", "list", "--url", url)
    assert (done.code, done.err.startswith("error: ")) == (1, True)


def test_demo_prompts(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def prompts(kind: str, split: str, n: int, seed: int) -> list[dict[str, Any]]:
        if kind != "fact":
            raise ValueError(f"no kind '{kind}'")
        message = {"role": "user", "content": f"{split} {seed}"}
        return [{"messages": [message], "kind": kind, "answer": "x"}] * n

    module = ModuleType("demo.prompts")
    module.prompts = prompts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "demo.prompts", module)
    line = ("demo", "prompts", "--kind", "fact", "--split", "train", "-n", "3", "--seed", "7")
    items = call(*line, "--json").json
    assert [item["messages"][0]["content"] for item in items] == ["train 7"] * 3
    assert "answer: x" in call(*line).out
    unknown = call("demo", "prompts", "--kind", "facts")
    assert (unknown.code, unknown.err) == (1, "error: no kind 'facts'\n")
    assert call("demo", "prompts", "--kind", "fact", "--split", "test").code == 2


def test_deferred_commands_get_what_they_do_not_know(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(
        context: typer.Context, model: str | None = None, port: Annotated[int, typer.Option()] = 1
    ) -> None:
        typer.echo(json.dumps([model, port, context.args]))

    module = ModuleType("service.commands.serve")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.commands.serve", module)
    line = ("serve", "--model", "m", "--port", "9", "--enforce-eager", "--max-model-len", "64")
    assert call(*line).json == ["m", 9, ["--enforce-eager", "--max-model-len", "64"]]
    assert call("--help").code == 0
