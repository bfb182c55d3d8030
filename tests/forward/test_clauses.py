from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forward.clauses import Phase, Region, TokenClause, region_index, regions
from tests.reference import clause_covers, region_of

CLAUSES = st.one_of(
    st.sampled_from(list(get_args(Phase))).map(TokenClause),
    st.integers(0, 6).map(lambda start: TokenClause("generation", start)),
)


@given(st.lists(CLAUSES, max_size=5), st.integers(1, 8), st.integers(0, 20))
def test_regions_agree_with_every_clause_at_every_token(clauses, prompt_length, position):
    cut = regions(clauses)
    region = cut[region_of(position, prompt_length, cut)]
    for clause in clauses:
        expected = clause_covers(clause.phase, clause.start, position, prompt_length)
        assert clause.covers(region) == expected


@given(st.lists(CLAUSES, max_size=5), st.integers(1, 8), st.integers(0, 20))
def test_region_index_is_the_region_by_definition(clauses, prompt_length, position):
    cut = regions(clauses)
    starts = tuple(region.start for region in cut if region.phase == "generation")
    assert region_index(position, prompt_length, starts) == region_of(position, prompt_length, cut)


def test_regions_are_the_coarsest():
    assert regions([]) == (Region("prompt"), Region("last_prompt"), Region("generation", 0))
    cut = regions([TokenClause("generation", 3), TokenClause("all"), TokenClause("generation", 3)])
    assert [region.start for region in cut if region.phase == "generation"] == [0, 3]


@pytest.mark.parametrize(("phase", "start"), [("prompt", 2), ("generation", -1), ("all", 1)])
def test_a_start_belongs_to_generation(phase, start):
    with pytest.raises(ValueError, match="counts generated tokens"):
        TokenClause(phase, start)


def test_clauses_print_as_written():
    assert str(TokenClause("generation", 4)) == "from 4"
    assert str(TokenClause("last_prompt")) == "last_prompt"
