"""README.md for the reader who follows it: each command is a block, in a folder that has its files.

Its `PATH` and `DIR` are there under just these names: the demo's checkpoint, and a small folder of
policies. What it names but cannot be there, or takes long, is left out by name.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo.prompts import conversation, prompts
from service.documents import parse_documents
from tests.docs.page import Block, read_page
from tests.docs.test_docs import blocks as fenced
from tests.evidence import ROOT

README = ROOT / "README.md"
_ELSEWHERE = "a how-to page runs it at a small size"
LEFT: Mapping[str, str] = {
    "make test": "it runs these tests",
    "audit verify --anchor": "an anchor of another log",
    "decision show": "a request of another server",
    "sae train": _ELSEWHERE,
    "sae import": _ELSEWHERE,
    "edit solve --facts moves.yaml --url": "tests/engine/test_live_speaker.py has jobs of a server",
    "edit evaluate": "it needs cases",
    "edit remove": "it names a fact of another set",
    "serve PATH --policies DIR": "the tutorial for one's own model does it",
    "direction import": "it needs a vector of another program",
}
STATUS: Mapping[str, int] = {
    "policy plan careful.yaml": 3,  # something would change
    "--as-directory": 1,  # the demo's server follows no directory
    "--if-generation 7": 1,  # somebody was faster
}


def followed() -> list[Block]:
    """Return README's commands, one a block, and its scripts."""
    key = Block("README.md", "sh", "export TRIMTAB_ADMIN_KEY=operator")
    return [key, *_commands(read_page(README))]


def _commands(found: list[Block]) -> Iterator[Block]:
    removed = False
    for block in found:
        if block.language == "python":
            yield block
            continue
        for line in filter(None, block.body.splitlines()):
            left = next((why for part, why in LEFT.items() if part in line), "")
            if removed and "policy set careful" in line:
                left = "the policy was removed above"
            removed = removed or "policy remove careful" in line
            status = next((code for part, code in STATUS.items() if part in line), 0)
            command = line.split("  #")[0].split("   #")[0]
            serves = command.strip() == "make serve"
            yield replace(block, body=command, left=left, status=status, serves=serves)


def set_scene(folder: Path) -> None:
    """Write what README's commands name into a clone."""
    (folder / "PATH").symlink_to("demo/checkpoint")
    shutil.copytree(folder / "demo" / "policies" / "artifacts", folder / "DIR" / "artifacts")
    shutil.copytree(folder / "demo" / "policies", folder / "NEW")
    for name, at in (("policy.yaml", 0), ("careful.yaml", -1)):
        (folder / name).write_text(json.dumps(_documents("Policy", "careful")[at]))
    (folder / "DIR" / "harm.yaml").write_text(json.dumps(_documents("Monitor", "harm")[0]))
    facts = _documents("EditSet", "moves")[0]
    facts["spec"]["facts"][0]["target"] = "oslo"  # the demo's model writes small
    (folder / "DIR" / "moves.yaml").write_text(json.dumps(facts))
    _pairs(folder / "pairs.jsonl")
    _items(folder)


def _documents(kind: str, name: str) -> list[dict[str, Any]]:
    return [
        document.model.model_dump(mode="json", exclude_unset=True)
        for body in fenced(README, "yaml")
        for document in parse_documents(body, "README.md")
        if document.key == (kind, name)
    ]


def _pairs(file: Path) -> None:
    asked = [conversation(item)[-1]["content"] for item in prompts("fact", n=12)]
    pairs = [{"positive": f"{question} sir", "negative": question} for question in asked]
    file.write_text("\n".join(map(json.dumps, pairs)))


def _items(folder: Path) -> None:
    files = {"train": "labelled", "calibration": "benign", "heldout": "heldout"}
    for split, name in files.items():
        said = subprocess.run(
            [
                folder / ".venv/bin/trimtab",
                *f"demo items --monitor harm -n 10 --split {split}".split(),
            ],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        (folder / f"{name}.jsonl").write_text(said.stdout)
    lines = (folder / "benign.jsonl").read_text().splitlines()
    by_label = {
        label: [one for one in lines if json.loads(one)["label"] == label] for label in (0, 1)
    }
    (folder / "benign.jsonl").write_text("\n".join(by_label[0]))
    (folder / "harmful.jsonl").write_text("\n".join(by_label[1]))
