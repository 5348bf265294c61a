"""What is held out shares no image (without images: no question) with what is trained on."""

import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsight.engine.progress import Progress
from pairsight.errors import DataError
from pairsight.records import Completion, Demonstration, ImageRef, Message, Prompt
from pairsight.training.data.held_out import split_held_out
from pairsight.training.trainer import PreferenceTrainer


def example(number: int, *images: str, question: str = "What is it?") -> Demonstration:
    prompt = Prompt(f"p{number}", (Message("user", question, tuple(ImageRef(image) for image in images)),))
    return Demonstration(f"d{number}", prompt, Completion(f"c{number}", prompt.id, "a cat", "stop", "m", 0, 0), "test")


def images_of(examples: list[Demonstration], numbers: list[int]) -> set[str]:
    return {image.sha256 for number in numbers for image in examples[number].prompt.images}


def test_three_questions_per_image_never_divide_an_image():
    examples = [example(n, f"image {n // 3}") for n in range(30)]
    train, held = split_held_out(examples, 0.3, seed=1)
    assert sorted(train + held) == list(range(30))
    assert len(held) == 9
    assert not images_of(examples, train) & images_of(examples, held)


def test_prompts_that_share_an_image_through_others_stay_together():
    examples = [example(0, "a", "b"), example(1, "b", "c"), example(2, "c"), example(3, "d"), example(4, "d", "e")]
    for seed in range(20):
        train, held = split_held_out(examples, 0.4, seed)
        assert held == [3, 4], "two of five, and the chain a-b-c is indivisible"
        assert train == [0, 1, 2]


def test_without_images_the_question_is_what_is_not_shared():
    examples = [example(n, question=f"What is  {n // 2}?" if n % 2 else f"What is {n // 2}?") for n in range(10)]
    train, held = split_held_out(examples, 0.2, seed=3)
    assert len(held) == 2
    assert held[0] // 2 == held[1] // 2
    assert len(train) == 8


def test_the_same_question_about_different_images_is_no_reason_to_stay_together():
    _, held = split_held_out([example(n, str(n)) for n in range(10)], 0.1, seed=0)
    assert len(held) == 1


def test_the_split_follows_from_the_seed_and_nothing_is_held_out_unless_asked():
    examples = [example(n, f"image {n % 8}") for n in range(40)]
    images = list(range(8))  # 10 of 40 are two images of five: the first two when shuffled, as in runs made before
    random.Random(1).shuffle(images)
    assert split_held_out(examples, 0.25, 1)[1] == [n for n in range(40) if n % 8 in images[:2]]
    assert len({tuple(split_held_out(examples, 0.25, seed)[1]) for seed in range(10)}) > 1
    assert split_held_out(examples, 0.0, 1) == (list(range(40)), [])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=14), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_fraction_is_met_as_closely_as_the_images_allow(images, fraction, seed):
    examples = [example(n, str(image)) for n, image in enumerate(images)]
    sizes = list(Counter(images).values())
    if len(sizes) < 2:
        with pytest.raises(DataError, match="are on one image"):
            split_held_out(examples, fraction, seed)
        return
    train, held = split_held_out(examples, fraction, seed)
    assert train
    assert held
    assert not images_of(examples, train) & images_of(examples, held)
    possible = {sum(part) for count in range(1, len(sizes)) for part in combinations(sizes, count)}
    wanted = round(fraction * len(images))
    assert abs(len(held) - wanted) == min(abs(total - wanted) for total in possible)


@pytest.mark.parametrize("examples", [[example(n, "a") for n in range(3)], [example(n) for n in range(3)]])
def test_a_single_image_or_prompt_cannot_be_divided(examples):
    with pytest.raises(DataError, match=r"eval_fraction 0\.1 holds out examples by image, and all 3 are on one"):
        split_held_out(examples, 0.1, 0)


def test_the_trainer_holds_out_by_image(small, tmp_path, monkeypatch):
    seen = []

    def noted(examples, fraction, seed):
        seen.append((examples, *split_held_out(examples, fraction, seed)))
        return seen[-1][1:]

    monkeypatch.setattr("pairsight.training.data.held_out.split_held_out", noted)
    pairs = small.pairs(18)  # three on each image
    pairs[4] = pairs[4].__class__(pairs[4].id, pairs[4].prompt, pairs[4].chosen, (pairs[4].chosen,), "test")  # skipped
    made = {"lora_r": 4, "max_steps": 1, "report_to": (), "images": small.images, "progress": Progress("quiet")}
    PreferenceTrainer(small.model, out=tmp_path / "a", eval_fraction=0.3, **made).train(pairs)
    ((examples, train, held),) = seen
    assert [one.id for one in examples] == [f"p{n}" for n in range(18) if n != 4]
    assert held
    assert not images_of(examples, train) & images_of(examples, held)
