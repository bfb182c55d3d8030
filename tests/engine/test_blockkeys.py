"""Block keys against the slow, obvious definition: the treatment of every token, one by one."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams

from forward.rows import RowSpan
from service.engine.blockkeys import block_runs, with_rows
from service.engine.stamp import STAMP_KEY, Span, Stamp

keys = st.sampled_from(["", "a", "b"])
strengths = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """Draw a span with one to three generation regions."""
    later = draw(st.lists(st.integers(1, 20), max_size=2, unique=True))
    starts = (0, *sorted(later))
    drawn = tuple(draw(keys) for _ in range(2 + len(starts)))
    rows = tuple(int(bool(key)) for key in drawn)
    return Span(RowSpan(rows, starts, draw(strengths)), drawn)


def treatment(stamp: Stamp, prompt_length: int, position: int) -> list[tuple[str, float]]:
    """What is done to a token, by definition."""
    done: list[tuple[str, float]] = []
    for span in stamp.spans:
        if position < prompt_length:
            index = 1 if position == prompt_length - 1 else 0
        else:
            index = 1
            for start in span.rows.starts:
                if position >= prompt_length + start:
                    index += 1
        if span.keys[index] and span.rows.strength:
            done.append((span.keys[index], span.rows.strength))
    return sorted(done)


@given(
    spans(), spans(), spans(), spans(), st.integers(1, 40), st.integers(1, 40), st.integers(0, 6)
)
def test_equal_keys_exactly_where_every_token_is_treated_alike(
    a: Span, b: Span, c: Span, d: Span, one_length: int, other_length: int, block: int
) -> None:
    """Two requests have one key for a block if and only if each token's treatment is the same."""
    one, other = Stamp("1", a, b), Stamp("2", c, d)
    start, end = 8 * block, 8 * block + 8
    alike = all(
        treatment(one, one_length, p) == treatment(other, other_length, p)
        for p in range(start, end)
    )
    same = block_runs(one, one_length, start, end) == block_runs(other, other_length, start, end)
    assert same == alike


@given(spans(), spans(), st.integers(1, 40), st.integers(0, 6))
def test_untouched_blocks_have_no_key(a: Span, b: Span, length: int, block: int) -> None:
    """A block none of whose tokens is touched has vLLM's own key."""
    stamp = Stamp("1", a, b)
    start, end = 8 * block, 8 * block + 8
    touched = any(treatment(stamp, length, p) for p in range(start, end))
    assert bool(block_runs(stamp, length, start, end)) == touched


def test_a_tenant_has_first_blocks_of_its_own() -> None:
    """Every later block's hash has the first one's in it; without a tenant it is vLLM's own."""
    keyed = with_rows(lambda request, start, end, mm: (None, mm))

    def first_and_second(tenant: str) -> list[object]:
        stamp = Stamp("1", tenant=tenant)
        params = SamplingParams(extra_args={STAMP_KEY: stamp.pack()})
        request: Any = SimpleNamespace(sampling_params=params, num_prompt_tokens=16)
        return [keyed(request, start, start + 8, 0)[0] for start in (0, 8)]

    assert first_and_second("") == [None, None]
    assert first_and_second("acme")[0] != first_and_second("other")[0]
    assert first_and_second("acme")[1] is None
