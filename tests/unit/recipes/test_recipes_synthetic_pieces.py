"""The synthetic recipe's pure pieces: near-duplicates, lists of scenes, questions, ranking, filters."""

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.recipes.synthetic.texts import (
    TOPICS,
    instruction_request,
    near_duplicates,
    parse_instruction,
    parse_scenes,
    rank_images,
    scene_requests,
    slug,
    unusable,
    with_selected,
)
from pairsight.records import ImageCandidate, ImageRef, Message, Prompt


def test_near_duplicates_share_most_words():
    texts = ["A red bus in the rain", "a red bus in rain", "A blue bus at night", "the RED bus, in a rain!", ""]
    # words {a red bus in the rain} and {a red bus in rain}: 5 of 6
    assert near_duplicates(texts, 0.8) == [None, 0, None, 0, None]
    assert near_duplicates(texts, 0.9) == [None, None, None, 0, None]
    assert near_duplicates(["", "!"], 0.8) == [None, 0]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join), max_size=12),
    st.sampled_from([0.3, 0.5, 0.75, 1.0]),
)
def test_near_duplicates_equal_the_comparison_of_all_pairs(texts, threshold):
    found = near_duplicates(texts, threshold)
    expected: list[int | None] = []
    for index, text in enumerate(texts):
        words = set(text.split())
        earlier = None
        for other in range(index):
            if expected[other] is None:
                others = set(texts[other].split())
                union = len(words | others)
                if union == 0 or len(words & others) / union >= threshold - 1e-9:
                    earlier = other
                    break
        expected.append(earlier)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "scenes"),
    [
        (
            '1. A cat on a mat.\n2) Two dogs run fast\n\n10. "A boat at sea"',
            ["A cat on a mat.", "Two dogs run fast", "A boat at sea"],
        ),
        ("Here are the prompts:\n- A cat on a mat\n* Two dogs run", ["A cat on a mat", "Two dogs run"]),
        ("Sure! Here they are:\nA cat on a mat\nTwo dogs run", ["A cat on a mat", "Two dogs run"]),
        ("I cannot", []),
        ("", []),
    ],
)
def test_scenes_are_read_from_lists_of_any_shape(text, scenes):
    assert parse_scenes(text) == scenes


def test_scenes_are_asked_for_in_lists_with_their_own_seeds():
    requests = list(scene_requests(("art", "daily activities"), 45, seed=1))
    assert [one.prompt.id for one in requests] == [
        "scenes-art-0", "scenes-art-1", "scenes-art-2",
        "scenes-daily-activities-0", "scenes-daily-activities-1", "scenes-daily-activities-2",
    ]  # fmt: skip
    assert [int(re.search(r"Write (\d+)", one.prompt.question).group(1)) for one in requests] == [20, 20, 5] * 2
    assert len({one.seed for one in requests}) == 6
    assert {one.prompt.source for one in requests} == {"art", "daily activities"}
    assert len(TOPICS) == 10
    assert slug("Daily  activities") == "daily-activities"


def test_the_question_is_found_in_what_the_writer_says():
    assert parse_instruction("Sure:\n**what is the  man holding?** It is…") == "What is the man holding?"
    assert parse_instruction("Is there a cat? Why does it sleep?") == "Why does it sleep?"
    assert parse_instruction("Describe the image.") is None
    assert parse_instruction("Whatever?") is None


def test_the_writer_sees_the_image_only_when_it_is_given():
    text = Prompt("art-1", (Message("user", "a cat"),), "art")
    blind = instruction_request(text, None, 0)
    seeing = instruction_request(text, ImageRef("a" * 64), 0)
    assert '"a cat"' in blind.prompt.question
    assert blind.prompt.images == ()
    assert seeing.prompt.images == (ImageRef("a" * 64),)
    assert blind.prompt.id == "art-1-instruction"


def image(name: str, score: float | None) -> ImageCandidate:
    return ImageCandidate(ImageRef(name), "t", 5.0, 0, {} if score is None else {"clip": score}, selected=False)


def test_the_first_of_the_best_images_wins():
    images = [image("a", 1.0), image("b", 2.0), image("c", None), image("d", 2.0)]
    assert rank_images(images, "clip") == [1, 3, 0]
    assert rank_images(images, "clip", seen={"b"}) == [3, 0]
    assert rank_images(images, "blip") == []
    assert [one.selected for one in with_selected(images, 1)] == [False, True, False, False]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_ranking_is_a_permutation_from_best_to_worst(scores):
    order = rank_images([image(str(i), score) for i, score in enumerate(scores)], "clip")
    assert sorted(order) == list(range(len(scores)))
    assert all(scores[a] > scores[b] or (scores[a] == scores[b] and a < b) for a, b in combinations(order, 2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  ", "empty"),
        ("What is in the image", "echo"),
        ("what is in the image?", "echo"),
        ("What is in the image? A cat.", None),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot see the image", "refusal"),
        ("As an AI language model, I can't", "refusal"),
        ("Sorry, no.", "refusal"),
        ("I can see a cat", None),
        ("I will tell you: a cat", None),
        ("The sorry sight of a can", None),
    ],
)
def test_empty_echoed_and_refused_completions_are_told_apart(text, reason):
    assert unusable(text, "What is in the image?") == reason
