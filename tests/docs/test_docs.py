"""The documents say what is there: links resolve, examples are valid, versions agree."""

import ast
import itertools
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner

from service import cli
from service.documents import parse_documents

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=str)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VLLMS = {"--served-model-name"}
"""Options of `vllm serve` in our pages."""
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's fenced blocks in one language."""
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


def anchors(page: Path) -> set[str]:
    """Return the fragments that a page's headings answer to."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not fragment or fragment in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_policies_in_pages_are_valid(page: Path):
    for body in blocks(page, "yaml"):
        if "apiVersion: trimtab/" in body:
            assert parse_documents(body, named(page))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_and_json_in_pages_parse(page: Path):
    for body in blocks(page, "python"):
        ast.parse(body)
    for body in blocks(page, "json"):
        json.loads(body)


def test_readme_has_its_examples():
    # Guards the tests above: a fence that no longer matches would pass for one that is valid.
    readme = ROOT / "README.md"
    assert any("kind: Policy" in body for body in blocks(readme, "yaml"))
    assert any("OpenAI(" in body for body in blocks(readme, "python"))
    assert any("make serve" in body for body in blocks(readme, "sh"))


def test_make_targets_in_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        spans = [
            *re.findall(r"`([^`\n]+)`", FENCE.sub("", text)),
            *"\n".join(blocks(page, "sh")).splitlines(),
        ]
        used = {word for span in spans for word in re.findall(r"^make ([a-z-]+)", span)}
        assert used <= targets, f"{named(page)} names {used - targets}"


def test_commands_in_pages_exist_with_their_options():
    lines = [line for page in PAGES for body in blocks(page, "sh") for line in body.splitlines()]
    commands = [
        line.split("bin/trimtab ")[1].split("#")[0].split()
        for line in lines
        if "bin/trimtab " in line
    ]
    assert commands
    for words in commands:
        group = typer.main.get_command(cli.app)
        depth = 1 if words[0] in ("serve", "bench") else 2
        asked = CliRunner().invoke(group, [*words[:depth], "--help"], env={"COLUMNS": "200"})
        assert asked.exit_code == 0, f"{words}: {asked.output}"
        options = {word for word in words[depth:] if word.startswith("--")} - VLLMS
        assert all(option in asked.output for option in options), f"{words}: {asked.output}"


def test_every_design_page_is_listed():
    index = (ROOT / "docs/design/README.md").read_text()
    pages = sorted((ROOT / "docs/design").glob("[0-9]*.md"))
    assert [f"{number:04d}" for number in range(1, len(pages) + 1)] == [p.name[:4] for p in pages]
    assert all(f"({page.name})" in index for page in pages)
    assert all("\nStatus: " in page.read_text() for page in pages)


def test_changelog_and_project_agree_on_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version = PROJECT["project"]["version"]
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    if released:
        assert released[0] == version, (
            "the newest release in the changelog is the project's version"
        )
    else:
        assert f"Towards {version}," in changelog
    assert changelog.index("## [Unreleased]") < changelog.index("### ")


def tracked() -> list[Path]:
    """Return the repository's text files, as git sees them or, in an export, as they lie."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else [named(page) for page in PAGES]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".in", ".lock", ".txt", ""}
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and path.suffix in suffixes]


def test_no_path_of_one_machine():
    # True on one machine only, so what a stranger reads or runs must not depend on it.
    places = re.compile(r"(?<![\w./-])/(?:" + "|".join(("work", "tmp", "root", "home")) + r")/\w")
    found = [
        f"{named(path)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if places.search(line)
    ]
    assert not found, "\n".join(found)


def packages() -> set[str]:
    """Return the top-level packages of the repository."""
    return {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}


def test_every_package_is_checked_and_installed():
    tools = PROJECT["tool"]
    assert packages() == set(tools["importlinter"]["root_packages"])
    assert packages() <= set(tools["pyright"]["include"])
    assert {f"{name}*" for name in packages()} <= set(
        tools["setuptools"]["packages"]["find"]["include"]
    )


def test_direct_requirements_are_in_the_lock():
    lines = (ROOT / "requirements/cpu.lock").read_text().splitlines()
    locked = {line.split("==")[0] for line in lines if line[:1].isalnum()}
    project = PROJECT["project"]
    asked = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[\s\[<>=!;]", requirement)[0].replace(".", "-") for requirement in asked}
    assert names - locked == {"torch", "vllm"}, "torch has its own file, vllm is the GPU's"


def test_the_lock_leaves_out_what_breaks_the_cpu_build():
    lock = (ROOT / "requirements/cpu.lock").read_text()
    assert not re.search(r"^(torch|torchvision|torchaudio|torchcodec|vllm)==", lock, re.MULTILINE)
    pinned = re.findall(r"^[a-z0-9].*$", lock, re.MULTILINE)
    assert pinned and all(re.fullmatch(r"\S+==\S+ \\", line) for line in pinned)
    assert len(re.findall(r"^\S.* \\\n    --hash=sha256:", lock, re.MULTILINE)) == len(pinned)


def test_engine_pins_agree():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [requirement for extra in extras.values() for requirement in extra]
    files = [(ROOT / "requirements" / name).read_text() for name in ("cpu.in", "cpu.lock")]
    pins = re.findall(r"^vllm(?:-cpu)?==(\S+)", "\n".join([*asked, *files]), re.MULTILINE)
    assert len(pins) == 4, "two extras, the direct requirement and the lock"
    assert len(set(pins)) == 1
