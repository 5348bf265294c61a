import hashlib

from pairsight.seeds import derived_seed


def test_seeds_are_those_of_runs_made_before():
    """A resumed run finds its items by keys that hold these numbers."""
    assert derived_seed("prompt", 0) == int(hashlib.sha256(b'["prompt", 0]').hexdigest()[:8], 16) // 2 == 230168202
    assert derived_seed("é", 3) == int(hashlib.sha256(b'["\\u00e9", 3]').hexdigest()[:8], 16) // 2 == 2084586429


def test_seeds_are_distinct_and_fit_31_bits():
    assert len({derived_seed(part, index) for part in ("a", "b", "a1") for index in range(50)}) == 150
    assert derived_seed("a", 1) != derived_seed("a1")
    assert 0 <= derived_seed("é", 3) < 2**31
