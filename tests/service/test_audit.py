"""The audit log: one row a change, in the change's own transaction; every tampering shows."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from service import audit_chain
from service.activation import By
from service.audit import AnchorError, append, parse_anchor
from service.audit_chain import GENESIS, Anchor, Bad, Verification
from service.database import Database, StoreError, parse_url
from service.documents import Document
from service.store import Store
from tests.service.places import StorePlace

ROWS = 6
Tamper = Callable[[sqlite3.Connection], object]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A store with six rows."""
    Store.open(str(tmp_path)).close()
    write(tmp_path, *range(1, ROWS + 1))
    yield tmp_path


def write(folder: Path, *numbers: int) -> None:
    database = Database(parse_url(str(folder)))
    for n in numbers:
        with database.write() as connection:
            append(connection, "ann (k1)", "apply", f"Policy/p{n}", None, {"revision": n})
    database.close()


def tamper(folder: Path, change: Tamper) -> None:
    """Change the database as whoever may write to it can."""
    with closing(sqlite3.connect(folder / "trimtab.db")) as database:
        for verb in ("UPDATE", "DELETE"):
            database.execute(f"DROP TRIGGER IF EXISTS audit_no_{verb}")
        change(database)
        database.commit()


def verify(folder: Path, anchor: Anchor | None = None) -> Bad | None:
    with Store.open(str(folder)) as store:
        return store.audit().verify(anchor).bad


def expected_hash(row: sqlite3.Row) -> str:
    """The slow, obvious version of what a hash covers."""
    fields = {name: row[name] for name in row.keys() if name != "hash"}  # noqa: SIM118
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rehash(database: sqlite3.Connection, first: int, fix_head: bool = False) -> None:
    """Chain all rows from one on anew, as a careful forger does."""
    database.row_factory = sqlite3.Row
    last = database.execute("SELECT seq, hash FROM audit WHERE seq < ? ORDER BY seq DESC", [first])
    seq, previous = tuple(last.fetchone() or (0, GENESIS))
    for (number,) in database.execute("SELECT seq FROM audit WHERE seq >= ?", [first]).fetchall():
        database.execute("UPDATE audit SET previous = ? WHERE seq = ?", [previous, number])
        row = database.execute("SELECT * FROM audit WHERE seq = ?", [number]).fetchone()
        seq, previous = number, expected_hash(row)
        database.execute("UPDATE audit SET hash = ? WHERE seq = ?", [previous, seq])
    if fix_head:
        database.execute("UPDATE audit_head SET seq = ?, hash = ?", [seq, previous])


def test_every_row_is_chained_to_the_one_before(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "trimtab.db")) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM audit ORDER BY seq").fetchall()
        head = tuple(database.execute("SELECT seq, hash FROM audit_head").fetchone())
    assert [row["seq"] for row in rows] == list(range(1, ROWS + 1))
    assert [row["previous"] for row in rows] == ["0" * 64, *(row["hash"] for row in rows[:-1])]
    assert [row["hash"] for row in rows] == [expected_hash(row) for row in rows]
    assert head == (ROWS, rows[-1]["hash"])
    assert verify(folder) is None


def test_the_hash_of_a_row_is_fixed() -> None:
    link = audit_chain.Link(
        1, "2026-11-25T00:00:00.000+00:00", "ann", "apply", "Policy/p", None, "{}", GENESIS
    )
    assert audit_chain.link_hash(link) == (
        "adf854a3200e44988e36d71acde0ace9d4c28ad1b400ff883b659f344a2ce71d"
    )


def test_entries_are_paged_newest_first(folder: Path) -> None:
    with Store.open(str(folder)) as store:
        log = store.audit()
        page = log.entries(limit=2)
        assert [entry.seq for entry in page] == [6, 5]
        assert [entry.seq for entry in log.entries(before=page[-1].seq, limit=3)] == [4, 3, 2]
        assert log.entries(before=1) == ()
        assert (page[0].actor, page[0].action, page[0].target) == ("ann (k1)", "apply", "Policy/p6")
        assert (page[0].before, page[0].after) == (None, {"revision": 6})


def test_a_row_is_there_only_with_its_change(tmp_path: Path) -> None:
    Store.open(str(tmp_path)).close()
    database = Database(parse_url(str(tmp_path)))
    with pytest.raises(RuntimeError), database.write() as connection:
        append(connection, "ann", "apply", "Policy/a")
        raise RuntimeError
    with database.write() as connection:
        append(connection, "ann", "apply", "Policy/b")
    database.close()
    with Store.open(str(tmp_path)) as store:
        assert [entry.target for entry in store.audit().entries()] == ["Policy/b"]
        assert store.audit().verify().bad is None


def delete(*numbers: int) -> Tamper:
    marks = ",".join(map(str, numbers))
    return lambda database: database.execute(f"DELETE FROM audit WHERE seq IN ({marks})")


def update(**fields: object) -> Tamper:
    assignments = ", ".join(f"{name} = ?" for name in fields)
    sql = f"UPDATE audit SET {assignments} WHERE seq = 3"
    return lambda database: database.execute(sql, list(fields.values()))


def replaced(database: sqlite3.Connection) -> None:
    """One row with other content and a hash that fits it."""
    update(actor="bob")(database)
    database.row_factory = sqlite3.Row
    row = database.execute("SELECT * FROM audit WHERE seq = 3").fetchone()
    update(hash=expected_hash(row))(database)


def swapped(database: sqlite3.Connection) -> None:
    for old, new in ((2, -1), (3, 2), (-1, 3)):
        database.execute("UPDATE audit SET seq = ? WHERE seq = ?", [new, old])


def closed_up(database: sqlite3.Connection) -> None:
    """A row taken out, and those after it numbered anew."""
    delete(3)(database)
    for number in range(4, ROWS + 1):
        database.execute("UPDATE audit SET seq = ? WHERE seq = ?", [number - 1, number])


def forged_end(database: sqlite3.Connection) -> None:
    database.execute(
        "INSERT INTO audit SELECT 7, at, actor, action, target, before, after, hash, ? FROM audit "
        "WHERE seq = 6",
        ["0" * 64],
    )
    rehash(database, 7)


def before_the_first(database: sqlite3.Connection) -> None:
    database.execute(
        "INSERT INTO audit SELECT 0, at, actor, action, target, before, after, previous, hash "
        "FROM audit WHERE seq = 1"
    )


@pytest.mark.parametrize(
    ("change", "seq", "flaw"),
    [
        (update(actor="bob"), 3, "changed"),
        (update(at="2020-01-01T00:00:00.000+00:00"), 3, "changed"),
        (update(action="remove"), 3, "changed"),
        (update(target="Policy/other"), 3, "changed"),
        (update(before="{}"), 3, "changed"),
        (update(after='{"revision": 3}'), 3, "changed"),
        (update(after=None), 3, "changed"),
        (update(previous="0" * 64), 3, "changed"),
        (update(hash="0" * 64), 3, "changed"),
        (replaced, 4, "broken"),
        (swapped, 2, "changed"),
        (closed_up, 3, "changed"),
        (delete(3), 3, "gap"),
        (delete(1, 2), 1, "gap"),
        (delete(6), 6, "truncated"),
        (delete(4, 5, 6), 4, "truncated"),
        (delete(1, 2, 3, 4, 5, 6), 1, "truncated"),
        (forged_end, 7, "surplus"),
        (before_the_first, 0, "surplus"),
        (lambda database: database.execute("DELETE FROM audit_head"), 7, "headless"),
        (lambda database: database.execute("UPDATE audit_head SET hash = 'x'"), 6, "broken"),
    ],
)
def test_the_first_row_that_was_tampered_with_is_named(
    folder: Path, change: Tamper, seq: int, flaw: str
) -> None:
    tamper(folder, change)
    bad = verify(folder)
    assert bad is not None
    assert (bad.seq, bad.flaw) == (seq, flaw)
    assert str(seq if flaw != "headless" else "head") in bad.message


def test_a_chain_made_anew_shows_only_against_its_head_or_a_noted_anchor(folder: Path) -> None:
    with Store.open(str(folder)) as store:
        noted = store.audit().head()

    def forge(database: sqlite3.Connection, fix_head: bool) -> None:
        update(actor="bob")(database)
        rehash(database, 3, fix_head)

    tamper(folder, lambda database: forge(database, False))
    bad = verify(folder)
    assert bad is not None
    assert (bad.seq, bad.flaw) == (6, "broken")
    tamper(folder, lambda database: forge(database, True))
    assert verify(folder) is None  # all that the database holds agrees: it cannot show
    bad = verify(folder, noted)
    assert bad is not None
    assert (bad.seq, bad.flaw) == (6, "unanchored")


def test_rows_written_after_a_loss_do_not_close_the_gap(folder: Path) -> None:
    tamper(folder, delete(5, 6))
    write(folder, 7)
    bad = verify(folder)
    assert bad is not None
    assert (bad.seq, bad.flaw) == (5, "gap")


def test_an_earlier_anchor_holds_as_the_log_grows(folder: Path) -> None:
    with Store.open(str(folder)) as store:
        noted = store.audit().head()
    assert noted is not None
    write(folder, 7, 8)
    assert verify(folder, parse_anchor(str(noted))) is None
    assert verify(folder, Anchor()) is None
    for wrong in (Anchor(noted.seq, "a" * 64), Anchor(99, noted.hash), Anchor(0, "a" * 64)):
        bad = verify(folder, wrong)
        assert bad is not None
        assert bad.flaw == "unanchored"


@pytest.mark.parametrize("text", ["", "6", "6:abc", "x:" + "0" * 64, "-1:" + "0" * 64])
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(AnchorError, match="SEQ:HASH"):
        parse_anchor(text)


def test_without_a_head_nothing_is_written(folder: Path) -> None:
    tamper(folder, lambda database: database.execute("DELETE FROM audit_head"))
    with pytest.raises(StoreError, match="head of the audit log is gone"):
        write(folder, 7)


@pytest.mark.parametrize("sql", ["UPDATE audit SET actor = 'bob'", "DELETE FROM audit"])
def test_a_slip_of_the_hand_is_refused_by_the_database(folder: Path, sql: str) -> None:
    refused = pytest.raises(sqlite3.IntegrityError, match="append-only")
    with closing(sqlite3.connect(folder / "trimtab.db")) as database, refused:
        database.execute(sql)
    assert verify(folder) is None


def test_both_databases_hold_and_guard_the_chain(
    place: StorePlace, policy: Callable[..., Document]
) -> None:
    with place.open() as store:
        for _ in range(3):
            store.activate(By("ann"), [store.record(policy("a"), {}, "api")])
            store.activate(By("ann"), [], [("Policy", "a")])
        assert store.audit().verify() == Verification(6, store.audit().head() or Anchor())
        for sql in ("UPDATE audit SET actor = 'bob'", "DELETE FROM audit"):
            with pytest.raises(SQLAlchemyError, match="append-only"):
                place.execute(sql)
        assert [entry.seq for entry in store.audit().entries(limit=2)] == [6, 5]
