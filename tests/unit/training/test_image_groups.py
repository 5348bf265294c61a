"""Prompts on one image follow each other in an order that is random, complete and repeatable."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.training.loop_base import ImageGroups


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_every_example_comes_once_and_an_image_in_runs_of_a_batch(image_ids, batch_size, epoch):
    sampler = ImageGroups(image_ids, batch_size, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(image_ids)))
    assert len(sampler) == len(image_ids)
    incomplete: dict[int, list[int]] = {}
    for image, run in groupby(order, key=lambda index: image_ids[index]):
        if rest := len(list(run)) % batch_size:  # runs that meet are one here, of which at most one is incomplete
            incomplete.setdefault(image, []).append(rest)
    remainders = {image: image_ids.count(image) % batch_size for image in image_ids}
    assert incomplete == {image: [rest] for image, rest in remainders.items() if rest}


def test_the_order_that_a_resumed_training_needs():
    """What an older version began, this one goes on with: the order follows from seed and epoch, on every machine."""
    sampler = ImageGroups([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 4], batch_size=2, seed=7)
    assert list(sampler) == [0, 7, 2, 1, 9, 6, 8, 10, 4, 3, 11, 5]
    sampler.set_epoch(1)
    assert list(sampler) == [4, 3, 7, 9, 11, 5, 2, 0, 1, 6, 8, 10]
    sampler.set_epoch(0)
    assert list(sampler) == [0, 7, 2, 1, 9, 6, 8, 10, 4, 3, 11, 5]


def test_a_group_stays_together_and_epochs_differ():
    image_ids = [number // 3 for number in range(60)]
    sampler = ImageGroups(image_ids, 8, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert [len(list(run)) for _, run in groupby(orders[-1], key=lambda index: image_ids[index])] == [3] * 20
    assert orders[0] != orders[1]
    assert orders[0] != list(range(60))
    assert list(ImageGroups(image_ids, 8, seed=2)) != orders[0]


@pytest.mark.parametrize(("seed", "expected"), [(0, [4, 4, 2]), (2, [4, 6]), (3, [2, 4, 4]), (4, [2, 8])])
def test_a_large_group_comes_in_runs_of_a_batch(seed, expected):
    order = list(ImageGroups(["a"] * 10 + list("bcdefghijk"), 4, seed=seed))
    runs = [len(list(run)) for is_a, run in groupby(order, key=lambda index: index < 10) if is_a]
    assert runs == expected, "4, 4 and 2 in random order; runs that meet are one here"
