"""Prompts on one image follow each other in an order that is random, complete and repeatable."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from pairsight.training.loop_base import ImageGroups


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_every_example_comes_once_and_runs_are_a_batch_at_most(image_ids, batch_size, epoch):
    sampler = ImageGroups(image_ids, batch_size, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(image_ids)))
    assert order == list(sampler)
    assert len(sampler) == len(image_ids)


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


def test_a_large_group_comes_in_runs_of_a_batch():
    order = list(ImageGroups(["a"] * 10 + list("bcdefghijk"), 4, seed=0))
    runs = [len(list(run)) for is_a, run in groupby(order, key=lambda index: index < 10) if is_a]
    assert sum(runs) == 10
    assert len(runs) > 1
