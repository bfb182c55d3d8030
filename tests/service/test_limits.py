"""Limits of a key against a clock that the test turns."""

import math
import random

import pytest

from service.limits import Limiter, LimitError, Limits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def took(limiter: Limiter, limits: Limits, key: str = "k") -> bool:
    try:
        with limiter.admit(key, limits):
            return True
    except LimitError:
        return False


def test_a_minutes_requests_may_come_at_once_and_grow_back_evenly() -> None:
    clock = Clock()
    limiter, limits = Limiter(clock), Limits(requests_per_minute=6)
    assert [took(limiter, limits) for _ in range(8)] == [True] * 6 + [False] * 2
    clock.now += 9.9
    assert not took(limiter, limits)
    clock.now += 0.2
    assert took(limiter, limits) and not took(limiter, limits)
    clock.now += 1e6
    assert [took(limiter, limits) for _ in range(7)] == [True] * 6 + [False]


def test_retry_after_is_when_it_works_again() -> None:
    clock = Clock()
    limiter, limits = Limiter(clock), Limits(requests_per_minute=7)
    while took(limiter, limits):
        clock.now += 0.3
    with (
        pytest.raises(LimitError, match="7 requests a minute") as caught,
        limiter.admit("k", limits),
    ):
        pass
    clock.now += caught.value.retry_after - 1
    early = took(limiter, limits)
    clock.now += 1
    assert early or took(limiter, limits)
    assert caught.value.retry_after <= math.ceil(60 / 7)


def test_no_minute_and_burst_has_more_than_twice_the_rate() -> None:
    """Whatever the times, between any two of them no more than burst and refill are let in."""
    chance, clock, rate = random.Random(5), Clock(), 10
    limiter, taken = Limiter(clock), list[float]()
    for _ in range(3000):
        clock.now += chance.expovariate(1.0)
        if took(limiter, Limits(requests_per_minute=rate)):
            taken.append(clock.now)
    for i, start in enumerate(taken):
        for j in range(i, min(i + 4 * rate, len(taken))):
            assert j - i + 1 <= rate + (taken[j] - start) * rate / 60 + 1e-6
    assert len(taken) > 3000 * rate / 60 * 0.9


def test_so_many_at_once() -> None:
    limiter, limits = Limiter(), Limits(concurrent=2)
    with limiter.admit("k", limits):
        with limiter.admit("k", limits):
            assert not took(limiter, limits)
            assert took(limiter, limits, "another")
            assert limiter.running() == {"k": 2}
        assert took(limiter, limits)
    assert limiter.running() == {}


def test_one_that_is_refused_or_fails_leaves_nothing_behind() -> None:
    limiter, limits = Limiter(), Limits(requests_per_minute=100, concurrent=1)
    for _ in range(3):
        with pytest.raises(ValueError), limiter.admit("k", limits):
            assert not took(limiter, limits)
            raise ValueError
    assert limiter.running() == {} and took(limiter, limits)


def test_no_limits_count_nothing() -> None:
    limiter = Limiter()
    with limiter.admit("k", Limits(max_seconds=1.0, max_body_bytes=3)):
        assert limiter.running() == {} and not limiter._uses


def test_limits_as_they_are_written() -> None:
    assert Limits().as_dict() == {}
    assert Limits(6, None, 9).as_dict() == {"requests_per_minute": 6, "max_body_bytes": 9}
