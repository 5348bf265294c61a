"""Item keys: equal for equal work, different for different work."""

import hashlib

import pytest

from pairsight.store.encoding import item_key, shared_part


def test_the_key_is_the_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256(b'["generate",1,{"a":[1,2],"b":"\\u00e9"}]').digest()
    assert item_key("generate", 1, {"b": "é", "a": (1, 2)}) == expected


def test_order_of_names_does_not_matter() -> None:
    assert item_key("s", 1, {"a": 1, "b": {"c": 2, "d": 3}}) == item_key("s", 1, {"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("other", [("t", 1, {"a": 1}), ("s", 2, {"a": 1}), ("s", 1, {"a": 2}), ("s", 1, {"a": "1"})])
def test_what_determines_the_result_changes_the_key(other: tuple[str, int, dict[str, object]]) -> None:
    assert item_key(*other) != item_key("s", 1, {"a": 1})


def test_what_is_no_json_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        item_key("s", 1, {"a": float("nan")})


def test_a_lone_surrogate_has_a_key() -> None:
    assert len(item_key("s", 1, {"a": "\ud800"})) == 32


def test_the_shared_part_changes_with_what_is_in_it() -> None:
    expected = hashlib.sha256(b'{"model":"m","sampling":{"top_p":1.0}}').hexdigest()
    assert shared_part({"sampling": {"top_p": 1.0}, "model": "m"}) == {"shared": expected}
    assert shared_part({"sampling": {"top_p": 0.9}, "model": "m"}) != {"shared": expected}
