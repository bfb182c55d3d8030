"""What differs between two documents is said once, at the deepest place where it does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.differences import ABSENT, differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
        ({"a": 1}, {}, [("a", 1, ABSENT)]),
        ({}, {"a": None}, [("a", ABSENT, None)]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3, 4]}}, [("a.b[1]", 2, 3), ("a.b[2]", ABSENT, 4)]),
        ({"a": [1, 2]}, {"a": [1]}, [("a[1]", 2, ABSENT)]),
        ({"a": 1}, {"a": True}, [("a", 1, True)]),
        ({"a": {"b": 1}}, {"a": [1]}, [("a", {"b": 1}, [1])]),
        ({"b": 1, "a": 2}, {"c": 3, "a": 4}, [("b", 1, ABSENT), ("a", 2, 4), ("c", ABSENT, 3)]),
    ],
)
def test_differences(before: Any, after: Any, expected: list[Any]) -> None:
    assert [(d.path, d.before, d.after) for d in differences(before, after)] == expected


def test_what_is_absent_is_left_out_of_json() -> None:
    (added,) = differences({}, {"a": None})
    assert added.as_dict() == {"path": "a", "after": None}


@given(JSON, JSON)
def test_there_is_a_difference_exactly_where_values_differ(before: Any, after: Any) -> None:
    found = list(differences(before, after))
    assert bool(found) == (repr(_sorted(before)) != repr(_sorted(after)))
    assert len({d.path for d in found}) == len(found)
    mirrored = {(d.path, repr(d.after), repr(d.before)) for d in differences(after, before)}
    assert {(d.path, repr(d.before), repr(d.after)) for d in found} == mirrored


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((name, _sorted(one)) for name, one in value.items()), "mapping"
    return [_sorted(one) for one in value] if isinstance(value, list) else value
