"""The clock that a jump does not fool."""

from datetime import UTC, datetime, timedelta

import pytest

from service import clock
from service.clock import SteadyClock

START = datetime(2026, 1, 1, tzinfo=UTC)


class Hands:
    """Stands for the machine's clocks."""

    def __init__(self) -> None:
        self.wall, self.passed = START, 100.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.passed = self.wall + timedelta(seconds=seconds), self.passed + seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made = Hands()

    class Wall(datetime):
        @classmethod
        def now(cls, tz=None):
            return made.wall

    monkeypatch.setattr(clock, "datetime", Wall)
    monkeypatch.setattr(clock.time, "monotonic", lambda: made.passed)
    return made


def test_both_readings_are_the_time_while_nobody_sets_the_clock(hands: Hands) -> None:
    steady = SteadyClock()
    hands.pass_by(60)
    assert steady.earliest() == steady.latest() == START + timedelta(seconds=60)


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_a_jump_moves_one_of_them(hands: Hands, jump: timedelta) -> None:
    steady = SteadyClock()
    hands.pass_by(60)
    hands.wall += jump
    true, jumped = START + timedelta(seconds=60), START + timedelta(seconds=60) + jump
    assert steady.earliest() == min(true, jumped)
    assert steady.latest() == max(true, jumped)
