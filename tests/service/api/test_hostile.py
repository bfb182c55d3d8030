"""Hostile requests over a socket: every eighth of those that ``make prove`` sends."""

from service.decisions import WantedDecisions
from tests.service.api.surviving import all_attacks, attack, besieged, everything, is_well
from tests.service.api.world import build, server_of
from tests.service.places import StorePlace


def test_nobody_gets_in_nothing_changes_nothing_breaks() -> None:
    with besieged(build) as (port, world, keys):
        is_well(port, keys)
        attacks, before = all_attacks(keys), everything(world)
        outcome = attack(port, attacks[::8])
        assert outcome.got_in == []
        assert outcome.broke == []
        assert everything(world) == before
        assert set(outcome.sent) == {one.kind for one in attacks}
        is_well(port, keys)


def test_each_is_another() -> None:
    with besieged(build) as (_, _, keys):
        attacks = all_attacks(keys)
    assert len({(one.kind, one.name) for one in attacks}) == len(attacks) >= 300
    assert len({one.data for one in attacks}) > 0.97 * len(attacks)


async def test_a_name_that_no_database_holds_stops_no_log(place: StorePlace) -> None:
    """A client names its answer; the records of others are written with it."""
    world = await build(store=place.open())
    with world.store:
        for name in ("a\0b", "\ufffe", "x" * 5000):
            assert (await world.chat(request_id=name)).status_code == 200
        assert (await world.chat()).status_code == 200
        log = server_of(world).decisions
        await log.flush()
        assert len(log.store.page(WantedDecisions())) == 4
