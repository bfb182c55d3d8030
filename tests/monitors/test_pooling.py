import math
from collections import deque

import numpy as np
import pytest

from monitors.pooling import Pool, PoolError, PoolState, parse_pool, pooled

POOLS = [
    Pool("max"),
    Pool("mean"),
    Pool("last"),
    Pool("ema", alpha=0.5),
    Pool("ema", alpha=0.1),
    Pool("ema", alpha=1.0),
    Pool("rolling", window=1),
    Pool("rolling", window=10),
    Pool("softmax"),
    Pool("softmax", temperature=0.05),
    Pool("attention"),
]


def random_scores(n: int, seed: int, scale: float = 1.0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=n)).tolist(), (3 * scale * rng.normal(size=n)).tolist()


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_streaming_equals_the_definition_after_every_token(pool: Pool, seed: int, scale: float):
    values, queries = random_scores(37, seed, scale)
    state = pool.start()
    for n, (value, query) in enumerate(zip(values, queries, strict=True), 1):
        found = state.update(value, query)
        assert found == pytest.approx(pooled(pool, values[:n], queries[:n]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (Pool("max"), [1, 3, 3, 5, 5]),
        (Pool("mean"), [1, 2, 1, 2, 2]),
        (Pool("last"), [1, 3, -1, 5, 2]),
        # e = 1, 2, 0.5, 2.75, 2.375
        (Pool("ema", alpha=0.5), [1, 2, 2, 2.75, 2.75]),
        # means of the last two: 1, 2, 1, 2, 3.5
        (Pool("rolling", window=2), [1, 2, 2, 2, 3.5]),
        # exp(q) = 1, 3, 0, 0, 4
        (Pool("attention"), [1, 10 / 4, 10 / 4, 10 / 4, 18 / 8]),
    ],
    ids=str,
)
def test_by_hand(pool: Pool, expected: list[float]):
    queries = [0.0, math.log(3), -800.0, -800.0, math.log(4)]
    state = pool.start()
    found = [state.update(v, q) for v, q in zip([1.0, 3.0, -1.0, 5.0, 2.0], queries, strict=True)]
    assert found == pytest.approx(expected)


def test_softmax_by_hand():
    # scores 0 and log 3 at temperature 1: weights 1 and 3
    assert pooled(Pool("softmax"), [0.0, math.log(3)], [0, 0]) == pytest.approx(0.75 * math.log(3))
    cold = Pool("softmax", temperature=1e-3).start()
    assert [cold.update(v) for v in (1.0, 4.0, 2.0)] == pytest.approx([1, 4, 4])
    hot = Pool("softmax", temperature=1e9).start()
    assert [hot.update(v) for v in (1.0, 4.0, 1.0)] == pytest.approx([1, 2.5, 2])


@pytest.mark.parametrize("pool", [p for p in POOLS if p.kind != "last"], ids=str)
def test_not_a_number_is_never_swallowed(pool: Pool):
    values, queries = random_scores(30, 0)
    values[7] = math.nan
    state = pool.start()
    found = [state.update(v, q) for v, q in zip(values, queries, strict=True)]
    assert all(map(math.isfinite, found[:7]))
    assert all(map(math.isnan, found[7:]))
    assert math.isnan(pooled(pool, values, queries))


def test_a_query_that_is_no_number_is_not_swallowed_either():
    state = Pool("attention").start()
    assert math.isnan([state.update(1.0, q) for q in (0.0, math.inf, 0.0)][-1])


def numbers_kept(state: PoolState) -> int:
    """Count what a state holds; anything but a number or a bounded ring is refused."""
    kept = 0
    for name in vars(type(state))["__slots__"]:
        part = getattr(state, name)
        if isinstance(part, deque):
            assert part.maxlen is not None
            kept += len(part)
        else:
            assert part is None or isinstance(part, (int, float))
            kept += 1
    return kept


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_memory_does_not_grow(pool: Pool):
    state = pool.start()
    assert not hasattr(state, "__dict__")
    for value in random_scores(500, 1)[0]:
        state.update(value)
    assert numbers_kept(state) <= 4 + (pool.window if pool.kind == "rolling" else 0)


def test_identity_is_the_kind_and_what_it_uses():
    assert Pool("max", alpha=0.1, window=3).digest == Pool("max").digest
    used = [
        Pool("max"),
        Pool("mean"),
        Pool("ema"),
        Pool("ema", alpha=0.25),
        Pool("rolling"),
        Pool("rolling", window=11),
        Pool("softmax"),
        Pool("softmax", temperature=2.0),
    ]
    assert len({pool.digest for pool in used}) == len(used)
    assert [str(pool) for pool in used[:4]] == ["max", "mean", "ema 0.5", "ema 0.25"]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "ema", "alpha": 0.0},
        {"kind": "ema", "alpha": 1.1},
        {"kind": "ema", "alpha": math.nan},
        {"kind": "rolling", "window": 0},
        {"kind": "softmax", "temperature": 0.0},
        {"kind": "softmax", "temperature": math.inf},
    ],
)
def test_refusals(options):
    with pytest.raises(PoolError):
        Pool(**options)


def test_nothing_has_no_pool():
    with pytest.raises(PoolError, match="no scores"):
        pooled(Pool(), [], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max", Pool("max")),
        ("mean", Pool("mean")),
        ("last", Pool("last")),
        ("ema:0.15", Pool("ema", alpha=0.15)),
        ("ema:1", Pool("ema", alpha=1.0)),
        ("rolling:4", Pool("rolling", window=4)),
    ],
)
def test_a_pool_as_the_command_line_writes_it(text, expected):
    assert parse_pool(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "max:1", "ema", "ema:", "ema:x", "ema:0", "ema:2", "ema:nan", "rolling:0", "rolling:1.5"],
)
def test_what_is_no_pool_on_the_command_line(text):
    with pytest.raises(PoolError):
        parse_pool(text)
