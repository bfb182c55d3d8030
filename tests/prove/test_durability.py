"""``kill -9`` at random moments during applies, jobs and events, on SQLite and on PostgreSQL.

A round is a process that works on the control side (a real governor and store, tables of its own
for an engine) until it is killed; on PostgreSQL the database's server is killed too, now and then.
After each, what was acknowledged is there, what was not is there whole or not at all, and the audit
log verifies and tells of just what is there. ``test_durability_served.py`` kills served engines.
"""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.killing import KINDS, Killing
from tests.postgres import Postgres
from tests.service.places import StorePlace

pytestmark = pytest.mark.prove

ROUNDS = 200
DATABASE_KILLED_EVERY = 10


def test_on_sqlite(tmp_path: Path, figures: dict[str, Any]) -> None:
    place = StorePlace(f"sqlite:///{tmp_path}/trimtab.db", tmp_path / "artifacts")
    figures["sqlite"] = rounds(Killing(place, seed=7))


def test_on_postgresql(tmp_path: Path, figures: dict[str, Any]) -> None:
    with Postgres() as server:
        place = StorePlace(server.url(server.create()), tmp_path / "artifacts")
        found = rounds(Killing(place, seed=8), partial(kill_and_start, server))
        kills = ROUNDS // DATABASE_KILLED_EVERY
        figures["postgresql"] = found | {"kills_of_the_database": kills}


def rounds(killing: Killing, strike: Callable[[], None] | None = None) -> dict[str, Any]:
    """Return what was found; ``strike`` falls on every tenth round while its process works."""
    for number in range(1, ROUNDS + 1):
        is_struck = number % DATABASE_KILLED_EVERY == 0
        killing.round(strike if is_struck else None)
    killing.end()
    done = killing.told.done
    assert all(done[kind] > ROUNDS / 4 for kind in KINDS), done
    return killing.figures()


def kill_and_start(server: Postgres) -> None:
    """End the database's server as ``kill -9`` does, and start it again."""
    server.stop(signal.SIGKILL)
    server.start()
