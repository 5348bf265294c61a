"""Pictures from texts in the rendered world: texts, reading pictures without a model, what scorers learn from."""

import numpy as np
import pytest
import torch
from PIL import Image

from pairsight.models.scorers.image_reward import pixel_tensor
from pairsight.records import ItemError
from pairsight.tiny.models.cards import shown
from pairsight.tiny.train.pipeline import draw_picture
from pairsight.tiny.train.scorer_data import edited, picture_all, sibling, true_caption, wording
from pairsight.tiny.world.captions import mentioned_kinds
from pairsight.tiny.world.picture_texts import (
    MAX_TOKENS,
    TOPICS,
    build_caption_tokenizer,
    kinds_wanted,
    picture_prompts,
    picture_text,
)
from pairsight.tiny.world.read_picture import read_picture
from pairsight.tiny.world.render import render
from pairsight.tiny.world.scenes import Scene, Thing, kind_of, scenes


def test_rendered_scenes_are_read_as_they_are():
    drawn = scenes("validation", 60, seed=3)
    read = [{(one.kind, one.cell) for one in read_picture(render(scene))} for scene in drawn]
    assert (
        sum(found == {(t.kind, t.cell) for t in scene.things} for found, scene in zip(read, drawn, strict=True)) >= 59
    )


def test_an_empty_ground_and_noise_show_nothing():
    empty = Scene("e", 2, (), (1, 2, 3))
    assert read_picture(render(empty)) == []
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    assert len(read_picture(noise)) <= 1
    assert read_picture(np.zeros((48, 48, 3), np.uint8)) == []


def test_a_text_names_its_topic_and_objects():
    text = picture_text("urban", [kind_of("red", "circle"), kind_of("orange", "ring"), kind_of("blue", "cross")])
    assert text == "urban scene with a red circle, an orange ring and a blue cross"
    assert kinds_wanted(text) == {kind_of("red", "circle"), kind_of("orange", "ring"), kind_of("blue", "cross")}


def test_prompts_are_distinct_and_fit_the_text_encoder():
    prompts = picture_prompts(30, seed=1)
    assert [one.id for one in prompts[:2]] == ["art-1", "art-2"]
    assert {one.source for one in prompts} == set(TOPICS)
    assert len({one.question for one in prompts}) == len(prompts) == 30 * len(TOPICS)
    tokenizer = build_caption_tokenizer()
    ids = tokenizer([one.question for one in prompts])["input_ids"]
    assert max(map(len, ids)) <= MAX_TOKENS
    assert all(tokenizer.unk_token_id not in one for one in ids)
    assert [one.question for one in prompts[:2]] == ["art scene with a red circle", "art scene with a green ring"]
    assert picture_prompts(30, seed=2) != prompts


def test_a_training_picture_shows_its_text():
    for index in range(20):
        text, scene = draw_picture(1, index)
        assert kinds_wanted(text) == scene.kinds
        assert text.startswith(TOPICS[scene.type])
    assert draw_picture(1, 3) == draw_picture(1, 3)


def test_what_pictures_show_is_counted_against_their_texts():
    circle, ring = kind_of("red", "circle"), kind_of("blue", "ring")
    both = Scene("b", 0, (Thing(circle, True, 0), Thing(ring, True, 8)), (1,))
    one = Scene("o", 0, (Thing(circle, True, 4),), (2,))
    texts = [picture_text("art", [circle, ring]), picture_text("art", [ring]), picture_text("art", [circle])]
    pictures = [Image.fromarray(render(both)), Image.fromarray(render(one)), ItemError("black")]
    row = shown(texts, pictures, 5.0)
    assert (row.recall, row.precision, row.exact) == (2 / 4, 2 / 3, 1 / 3)


@pytest.mark.parametrize("num_edits", [1, 2, 3])
def test_edited_texts_are_wrong_by_what_they_say(num_edits):
    rng = np.random.default_rng(num_edits)
    for scene in scenes("train", 30, seed=9):
        true = true_caption(scene, rng)
        assert (true.quality, frozenset(true.kinds)) == (0, scene.kinds)
        example = edited(scene, true.kinds, rng, num_edits)
        said = frozenset(example.kinds)
        assert example.num_wrong == sum(kind not in scene.kinds for kind in example.kinds)
        assert example.num_missing == len(scene.kinds - said)
        assert example.kinds
        assert tuple(mentioned_kinds(wording(example, rng))) == example.kinds


def test_a_sibling_differs_by_one_kind():
    rng = np.random.default_rng(4)
    for scene in scenes("train", 40, seed=9):
        other = sibling(scene, rng)
        assert len(scene.kinds - other.kinds) == 1
        assert len(other.kinds - scene.kinds) == len(other.things) - len(scene.things) + 1
        assert not np.array_equal(render(other), render(scene))


def test_pictures_for_scorers_know_what_each_cell_shows():
    drawn = picture_all((Scene("b", 0, (Thing(kind_of("green", "ring"), True, 5),), (1,)),))
    assert drawn.labels[0].tolist() == [[0, 0, 0, 0, 0, 2, 0, 0, 0], [0, 0, 0, 0, 0, 5, 0, 0, 0]]
    clean = [drawn.batch([0], np.random.default_rng(seed)) for seed in range(12)]
    assert clean[0].shape == (1, 3, 48, 48)
    expected = pixel_tensor(Image.fromarray(render(drawn.scenes[0])), 48)
    assert any(torch.allclose(one[0], expected, atol=1e-5) for one in clean)
    assert not all(torch.allclose(one[0], expected, atol=1e-2) for one in clean)
