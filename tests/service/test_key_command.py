"""``trimtab key`` against a store and against a server, through the program itself."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.commands.key import period, when
from service.commands.output import CommandError
from service.keys import parse_key
from service.store import Store
from tests.service.api.world import KEY, build
from tests.service.commanding import Call
from tests.service.serving import served_world


@pytest.fixture(params=["--state", "--url"])
def to(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Options that say where the keys are."""
    if request.param == "--state":
        Store.open(str(tmp_path)).close()
        yield ("--state", str(tmp_path))
        return
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    with served_world(build) as (url, _):
        yield ("--url", url)


def test_a_key_from_start_to_end(
    call: Call, to: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ("--requests-per-minute", "60", "--max-seconds", "1.5")
    made = call("key", "create", "ci", "--role", "viewer", "--tenant", "acme", *limits, *to)
    identity, secret = parse_key(made.out.strip()) or ("", "")
    assert (made.code, bool(secret)) == (0, True), made.err
    assert f"ci ({identity}), role viewer; not shown again" in made.err

    [listed] = call("key", "list", *to, "--json").json
    assert (listed["id"], listed["role"], listed["tenant"]) == (identity, "viewer", "acme")
    assert listed["limits"] == {"requests_per_minute": 60, "max_seconds": 1.5}
    monkeypatch.setenv("COLUMNS", "120")
    table = call("key", "list", *to)
    assert identity in table.out and "60/min, 1.5 s" in table.out and secret not in table.out

    again = call("key", "create", "ci", *to)
    assert (again.code, again.out) == (1, "") and "is called 'ci' already" in again.err

    new = call("key", "rotate", "ci", "--grace", "2h", *to, "--json").json
    assert new["id"] != identity and new["limits"] == listed["limits"]
    assert len(call("key", "list", *to, "--json").json) == 2

    assert call("key", "revoke", "ci", *to).out == f"ci ({new['id']}) is revoked\n"
    assert call("key", "revoke", identity, *to).code == 0
    assert call("key", "list", *to, "--json").json == []
    states = [key["state"] for key in call("key", "list", "--all", *to, "--json").json]
    assert states == ["revoked", "revoked"]
    gone = call("key", "revoke", "ci", *to)
    assert (gone.code, "no live one of this name" in gone.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "C I"), "name"),
        (("create", "ci", "--role", "root"), "role"),
        (("create", "ci", "--expires", "soon"), "expires_at"),
        (("create", "ci", "--concurrent", "0"), "limits.concurrent"),
        (("rotate", "ci", "--grace", "2 hours"), "is no time"),
        (("rotate", "ci"), "there is no key"),
    ],
)
def test_what_is_refused(call: Call, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    Store.open(str(tmp_path)).close()
    done = call("key", *arguments, "--state", str(tmp_path))
    assert (done.code, done.out) == (1, "") and says in done.err


def test_both_places_are_one_too_many(call: Call, tmp_path: Path) -> None:
    done = call("key", "list", "--state", str(tmp_path), "--url", "http://x")
    assert (done.code, "give one of them" in done.err) == (1, True)


def test_a_key_of_the_store_is_sent_before_the_admin_key(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    with served_world(build) as (url, _):
        mine = call("key", "create", "me", "--role", "viewer", "--url", url).out.strip()
        monkeypatch.setenv("TRIMTAB_KEY", mine)
        assert call("policy", "list", "--url", url).code == 0
        refused = call("key", "list", "--url", url)
        assert refused.code == 1 and "needs a key with role admin" in refused.err
        headers = {"Authorization": f"Bearer {mine}"}
        assert httpx.get(f"{url}/trimtab/v1/keys", headers=headers).status_code == 403


def test_what_the_command_line_did_is_said_so(call: Call, tmp_path: Path) -> None:
    Store.open(str(tmp_path)).close()
    call("key", "create", "ci", "--expires", "30d", "--state", str(tmp_path))
    with Store.open(str(tmp_path)) as store:
        [key] = store.keys().all()
        assert key.created_by == "command line"
        assert [entry.actor for entry in store.audit().entries()] == ["command line"]
        left = datetime.fromisoformat(key.expires_at or "") - datetime.now(UTC)
        assert timedelta(days=29.9) < left < timedelta(days=30.1)


def test_periods() -> None:
    assert [period(text) for text in ("90s", "5m", "2h", "30d", "1w")] == [
        *(90, 300, 7200, 2_592_000, 604_800)
    ]
    for text in ("", "0d", "1", "d", "1.5h", "-1d", "1y", "1d\n"):
        with pytest.raises(CommandError, match="is no time"):
            period(text)
    assert when("2027-01-31T12:00:00Z") == "2027-01-31T12:00:00Z"
