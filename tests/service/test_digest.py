"""Canonical JSON: one text for one content."""

import hashlib

import pytest

from service.digest import CanonicalError, canonical_json, content_digest


def test_keys_are_sorted_and_floats_are_their_shortest_form() -> None:
    value = {"b": [1, 1.0, 0.1, True, None], "a": {"é": "x y"}}
    assert canonical_json(value) == '{"a":{"\\u00e9":"x y"},"b":[1,1.0,0.1,true,null]}'
    assert content_digest(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()


def test_order_of_keys_does_not_count_and_order_of_items_does() -> None:
    assert content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    assert content_digest([1, 2]) != content_digest([2, 1])


def test_floats_that_differ_in_the_last_bit_differ() -> None:
    assert content_digest(0.1 + 0.2) != content_digest(0.3)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {3: 1}, {"a": {None: 1}}, {1, 2}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(CanonicalError):
        canonical_json(value)
