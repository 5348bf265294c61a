"""The world: reproducible, disjoint by part, pictures and prior as drawn by hand."""

import numpy as np
import pytest

from pairsight.errors import ConfigError
from pairsight.tiny.world.cooccurrence import strength, suggestion, top_absent, trigger
from pairsight.tiny.world.render import render
from pairsight.tiny.world.scenes import NUM_KINDS, Scene, Thing, kind_name, kind_of, place_name, scenes, type_weights


def test_a_scene_depends_on_part_seed_and_index_only():
    assert scenes("held_out", 5, seed=3)[4] == scenes("held_out", 1, seed=3, start=4)[0]
    things = (Thing(7, False, 1, 0.51, -0.42), Thing(0, False, 6, -1.0, 0.85))  # as in worlds written before
    assert scenes("held_out", 1) == [Scene("held_out-0-000000", 0, things, (482026, 4, 0, 0, 1))]


def test_parts_and_seeds_share_no_scene():
    drawn = [scenes(part, 200, seed) for part in ("train", "align", "validation", "held_out") for seed in (0, 1)]
    seeds = {scene.pixel_seed for part in drawn for scene in part}
    pictures = {render(scene).tobytes() for part in drawn for scene in part[:40]}
    assert len(seeds) == 8 * 200
    assert len(pictures) == 8 * 40


def test_scenes_hold_one_to_four_different_kinds_in_reading_order():
    for scene in scenes("train", 200):
        cells = [thing.cell for thing in scene.things]
        assert 1 <= len(scene.things) <= 4
        assert cells == sorted(set(cells))
        assert len(scene.kinds) == len(scene.things)


def test_kinds_are_all_pairs_of_colour_and_shape():
    names = [kind_name(kind) for kind in range(NUM_KINDS)]
    assert len(set(names)) == 30
    assert kind_name(0) == "red circle"
    assert kind_name(7) == "green triangle"
    assert kind_of("green", "triangle") == 7
    assert place_name(5) == "middle right"


def test_an_unknown_part_or_negative_number_is_refused():
    with pytest.raises(ConfigError, match="unknown part 'test'; known: train"):
        scenes("test", 1)
    with pytest.raises(ConfigError, match="seed must be 0 or more"):
        scenes("train", 1, seed=-1)
    with pytest.raises(ConfigError, match="n and start"):
        scenes("train", -1)


def test_suggestion_is_the_mixture_of_types_without_what_is_present():
    weights = type_weights()
    present = frozenset({0, 7})
    posterior = weights[:, 0] * weights[:, 7]
    posterior = posterior / posterior.sum()
    by_hand = sum(p * w[11] / (1 - w[0] - w[7]) for p, w in zip(posterior, weights, strict=True))
    scores = suggestion(present)
    assert scores[11] == pytest.approx(by_hand)
    assert scores.sum() == pytest.approx(1.0)
    assert scores[0] == scores[7] == 0.0


def test_the_top_absent_kind_is_absent_and_its_trigger_present():
    for scene in scenes("train", 100):
        assert top_absent(scene.kinds) not in scene.kinds
        assert trigger(scene.kinds) in scene.kinds
        assert 0.0 <= strength(scene.kinds) <= 1.0
    # Types 0 and 1 start at kinds 0 and 11: a scene of type 0's first two suggests its third.
    assert top_absent(frozenset({0, 7})) == 14


def test_a_picture_shows_its_object_where_it_is():
    scene = Scene("by-hand", 0, (Thing(kind_of("blue", "square"), True, 2),), (1, 2, 3))
    picture = render(scene).astype(int)
    assert picture.shape == (48, 48, 3)
    inside, outside = picture[4:12, 36:44].mean(axis=(0, 1)), picture[36:44, 4:12].mean(axis=(0, 1))
    assert inside[2] > 190
    assert inside[0] < 80
    assert outside.min() > 110
    assert np.array_equal(render(scene), render(scene))
