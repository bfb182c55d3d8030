"""A process that is killed at any moment loses nothing acknowledged and leaves nothing half done.

``tests/prove/test_durability.py`` is the same at its full size.
"""

from tests.killing import KINDS, Killing
from tests.service.places import StorePlace

ROUNDS = 6


def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(place: StorePlace) -> None:
    killing = Killing(place, seed=1)
    for _ in range(ROUNDS):
        killing.round()
    killing.end()
    done = killing.told.done
    assert sum(done[kind] > 0 for kind in KINDS) > len(KINDS) / 2, done
