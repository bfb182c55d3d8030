"""Run the tests in as many processes as they need, in turn, and say at the end what came of all.

vLLM holds process-wide state (its configuration, its parallel groups, the compile cache), so each
file that starts an engine has a process of its own; everything else shares the first. `--prove`
runs the full-size proofs, a section a file in tests/prove/, and leaves out those whose evidence
stands.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests import evidence

TESTS = Path(__file__).resolve().parent
OWN_PROCESS = ("engine", "conformance")  # folders whose files each start an engine
NOTHING_COLLECTED = 5  # pytest's exit status when markers leave a file empty


@dataclass(frozen=True)
class Batch:
    """One pytest process: what it runs and what it is called while it runs."""

    name: str
    arguments: tuple[str, ...]


def everyday(paths: list[Path]) -> list[Batch]:
    """Return what `make test` runs: all that starts no engine together, then one file at a time."""
    markers = ("-m", "not prove and not gpu")
    apart = [TESTS / folder for folder in (*OWN_PROCESS, "prove")]
    files = sorted(file for folder in apart[:-1] for file in folder.rglob("test_*.py"))
    own = [file for file in files if any(file.is_relative_to(path) for path in paths)]
    together = [path for path in paths if not any(path.is_relative_to(folder) for folder in apart)]
    shared = (*markers, *(f"--ignore={folder}" for folder in apart), *map(str, together))
    first = [Batch("all that starts no engine", shared)] if together else []
    names = [file.relative_to(TESTS.parent).as_posix() for file in own]
    return first + [Batch(name, (*markers, name)) for name in names]


def proofs(sections: list[str]) -> list[Batch]:
    """Return the sections of `make prove` still to run; sections that are named run again."""
    files = {
        file.stem.removeprefix("test_"): file
        for file in sorted((TESTS / "prove").glob("test_*.py"))
    }
    if unknown := set(sections) - set(files):
        raise SystemExit(
            f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(files)}"
        )
    standing = [] if sections else [name for name in files if evidence.stands(name)]
    for name in standing:
        print(f"{name}: its evidence stands, in docs/evidence/{name}.json", flush=True)
    due = sections or [name for name in files if name not in standing]
    return [Batch(name, ("-m", "prove", "--timeout=0", str(files[name]))) for name in due]


def environment() -> dict[str, str]:
    """Return the children's environment: no telemetry, no network, one thread unless told."""
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {"OMP_NUM_THREADS": "1", **os.environ, **quiet}


def run(batch: Batch, report: Path) -> int:
    """Run one pytest process, end whatever it left running, and return its exit status."""
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *batch.arguments]
    child = subprocess.Popen(command, cwd=TESTS.parent, env=environment(), start_new_session=True)
    try:
        return child.wait()
    finally:
        # A crashed test can leave an engine behind, holding memory and cores under later batches.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                break
            time.sleep(1)
        child.wait()


def counts(report: Path) -> Counter[str]:
    """Return how many tests passed, failed, were skipped or broke, from one junit report."""
    if not report.exists():
        return Counter({"error": 1})
    total: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        failed, broken, skipped = (
            int(suite.get(key, "0")) for key in ("failures", "errors", "skipped")
        )
        total += Counter(failed=failed, error=broken, skipped=skipped)
        total["passed"] += int(suite.get("tests", "0")) - failed - broken - skipped
    return total


def summary(total: Counter[str], failed: list[str], seconds: float) -> str:
    """Return which batches failed, then one line in pytest's own form for all of them."""
    parts = [
        f"{total[key]} {key}" for key in ("failed", "passed", "skipped", "error") if total[key]
    ]
    clock = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    line = f"{', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ({clock})"
    return "\n".join([*(f"FAILED {name}" for name in failed), f" {line} ".center(100, "=")])


def main() -> int:
    """Run every batch, going on after a failure, and return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prove", action="store_true", help="the full-size proofs, by section")
    parser.add_argument(
        "names", nargs="*", help="files or folders of tests; with --prove, sections"
    )
    asked = parser.parse_args()
    paths = [Path(name).resolve() for name in asked.names] or [TESTS]
    batches = proofs(asked.names) if asked.prove else everyday(paths)
    started, total, failed = time.monotonic(), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, batch in enumerate(batches, start=1):
            so_far = time.monotonic() - started
            print(f"\n[{number}/{len(batches)}] {batch.name} ({so_far:.0f} s so far)", flush=True)
            report = Path(folder, f"{number}.xml")
            status = run(batch, report)
            if status == NOTHING_COLLECTED:
                continue
            total += counts(report)
            if status != 0:
                failed.append(batch.name)
    print(summary(total, failed, time.monotonic() - started), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
