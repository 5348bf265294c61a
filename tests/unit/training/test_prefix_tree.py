"""Sequences merged on shared prefixes: hand-drawn trees, and what must hold of any."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pairsight.training.tokens import common_prefix, merge


def arrays(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(s, np.int64) for s in sequences]


def seen(end: np.ndarray) -> np.ndarray:
    index = np.arange(len(end))
    return (index[None, :] <= index[:, None]) & (index[:, None] < end[None, :])


def test_two_completions_share_their_prompt():
    tree = merge(arrays([7, 8, 9, 1, 2], [7, 8, 9, 3]))
    assert tree.source_S.tolist() == [0, 0, 0, 0, 0, 1]
    assert tree.depth_S.tolist() == [0, 1, 2, 3, 4, 3]
    assert tree.parent_S.tolist() == [-1, 0, 1, 2, 3, 2]
    assert tree.end_S.tolist() == [6, 6, 6, 5, 5, 6]
    assert [path.tolist() for path in tree.paths] == [[0, 1, 2, 3, 4], [0, 1, 2, 5]]


def test_sequences_that_share_nothing_are_a_forest_of_two_roots():
    tree = merge(arrays([1, 2], [3]))
    assert tree.parent_S.tolist() == [-1, 0, -1]
    assert tree.end_S.tolist() == [2, 2, 3]


def test_a_sequence_that_begins_another_and_an_equal_one_add_no_tokens():
    tree = merge(arrays([1, 2, 3], [1, 2], [1, 2, 3]))
    assert len(tree) == 3
    assert [path.tolist() for path in tree.paths] == [[0, 1, 2], [0, 1], [0, 1, 2]]


def test_image_symbols_are_compared_like_tokens():
    first, second = -5, -6
    assert len(merge(arrays([1, first, 2], [1, first, 3]))) == 4
    assert len(merge(arrays([1, first, 2], [1, second, 2]))) == 5


def test_nothing_merges_to_nothing():
    assert len(merge([])) == 0


def test_common_prefix():
    assert common_prefix(*arrays([1, 2, 3], [1, 2, 4])) == 2
    assert common_prefix(*arrays([1, 2], [1, 2, 4])) == 2
    assert common_prefix(*arrays([1], [2])) == 0


@given(st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=7), min_size=1, max_size=9))
def test_every_sequence_is_a_path_and_a_token_sees_exactly_its_path(sequences: list[list[int]]):
    given_arrays = arrays(*sequences)
    tree = merge(given_arrays)
    tokens = np.array([given_arrays[s][d] for s, d in zip(tree.source_S, tree.depth_S, strict=True)])
    distinct = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert len(tree) == len(distinct)
    sees = seen(tree.end_S)
    for sequence, path in zip(given_arrays, tree.paths, strict=True):
        assert tokens[path].tolist() == sequence.tolist()
        assert tree.depth_S[path].tolist() == list(range(len(sequence)))
        assert tree.parent_S[path].tolist() == [-1, *path[:-1].tolist()]
        for index, token in enumerate(path):
            assert np.flatnonzero(sees[token]).tolist() == path[: index + 1].tolist()
