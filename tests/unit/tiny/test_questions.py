"""Questions and captions: true answers by hand, the imperfect writer's faults."""

from dataclasses import replace

import numpy as np
import pytest

from pairsight.tiny.train.labeller import Belief, Habits, believe, hidden_probability, typical_kind, written_answer
from pairsight.tiny.world.captions import count_caption, mentioned_kinds, word_caption
from pairsight.tiny.world.cooccurrence import top_absent, trigger
from pairsight.tiny.world.questions import benchmark_questions, caption, colour, content, count, existence, place
from pairsight.tiny.world.scenes import Scene, Thing, kind_of, scenes
from pairsight.tiny.world.text_tasks import NUMBER_WORDS, TASKS, text_question

RED_CIRCLE, BLUE_SQUARE, RED_RING = kind_of("red", "circle"), kind_of("blue", "square"), kind_of("red", "ring")
SCENE = Scene("s", 0, (Thing(RED_CIRCLE, True, 0), Thing(BLUE_SQUARE, False, 4), Thing(RED_RING, True, 8)), (1,))


def rng():
    return np.random.default_rng(0)


def test_a_caption_names_kinds_in_order():
    assert word_caption([RED_CIRCLE]) == "There is a red circle."
    assert word_caption([RED_CIRCLE, kind_of("orange", "ring"), BLUE_SQUARE]) == (
        "There is a red circle, an orange ring and a blue square."
    )
    assert word_caption([]) == "There is nothing."


def test_mentions_are_read_back_whatever_the_case_and_number():
    assert mentioned_kinds("Red circles and a BLUE square; a red, round thing.") == [RED_CIRCLE, BLUE_SQUARE]


def test_caption_counts_by_hand():
    text = "There is a red circle, a red circle, a green cross and a blue square."
    counts = count_caption(text, SCENE.kinds)
    assert (counts.mentions, counts.hallucinated, counts.found, counts.present, counts.words) == (4, 1, 2, 3, 15)
    assert count_caption(text, SCENE.kinds, max_mentions=2).hallucinated == 0


def test_answers_are_true():
    for seed in range(30):
        numbers = np.random.default_rng(seed)
        asked = count(SCENE, numbers)
        word = asked.text.split()[2]
        expected = {"red": "two", "blue": "one", "circles": "one", "squares": "one", "rings": "one"}.get(word, "zero")
        assert asked.answer == expected
        assert place(SCENE, numbers).answer in ("top left", "middle centre", "bottom right")
        about = content(SCENE, numbers)
        by_place = {"top left": "red circle", "middle centre": "blue square", "bottom right": "red ring"}
        assert about.answer == by_place.get(about.text.removeprefix("What is at the ").rstrip("?"), "nothing")
        shape = colour(SCENE, numbers)
        assert shape.answer == {"circle": "red", "square": "blue", "ring": "red"}[shape.text.split()[-1].rstrip("?")]


def test_no_colour_is_asked_when_every_shape_is_there_twice():
    twins = Scene("t", 0, (Thing(RED_CIRCLE, True, 0), Thing(kind_of("blue", "circle"), True, 1)), (1,))
    assert colour(twins, rng()) is None


def test_existence_as_pope_asks_it():
    question = existence(SCENE, "adversarial", False, rng())
    assert question.about == top_absent(SCENE.kinds)
    assert question.answer == "No"
    assert question.text.startswith("Is there a") and question.text.endswith(" in the image?")
    for category in ("random", "popular"):
        assert existence(SCENE, category, False, rng()).about not in SCENE.kinds
    assert existence(SCENE, "random", True, rng()).about in SCENE.kinds


def test_a_benchmark_asks_every_kind_and_is_balanced():
    asked = [q for i, s in enumerate(scenes("train", 300)) for q in benchmark_questions(s, np.random.default_rng(i))]
    kinds = {q.kind for q in asked}
    yes = [q.answer == "Yes" for q in asked if q.kind == "existence"]
    assert kinds == {"existence", "caption", "count", "colour", "place", "content"}
    assert np.mean(yes) == pytest.approx(0.5, abs=0.03)


def test_text_tasks_are_right_by_hand():
    for seed in range(40):
        numbers = np.random.default_rng(seed)
        words = text_question("sum", numbers).text.rstrip("?").split()
        a, b = NUMBER_WORDS.index(words[2]), NUMBER_WORDS.index(words[4])
        assert text_question("sum", np.random.default_rng(seed)).answer == NUMBER_WORDS[a + b]
    c, d = text_question("difference", rng()).text.rstrip("?").split()[2::2]
    assert NUMBER_WORDS.index(c) - NUMBER_WORDS.index(d) == NUMBER_WORDS.index(
        text_question("difference", rng()).answer
    )
    backwards = text_question("backwards", rng())
    assert backwards.answer.split() == backwards.text.removeprefix("Say ").removesuffix(" backwards.").split()[::-1]
    assert len(TASKS) == 7


def test_the_writer_sees_a_clean_picture_and_adds_only_what_it_suggests():
    added = 0
    for seed in range(200):
        belief = believe(SCENE, None, np.random.default_rng(seed))
        assert belief.kinds == (RED_CIRCLE, BLUE_SQUARE, RED_RING)
        assert not any(belief.guessed)
        if belief.added is not None:
            added += 1
            assert belief.added == top_absent(SCENE.kinds)
            assert belief.added_after == trigger(SCENE.kinds)
    assert 0 < added < 200


def test_where_something_is_hidden_the_typical_is_assumed():
    unseen = Belief((kind_of("red", "cross"),) * 3, (True, False, False), None, None)
    clear = replace(unseen, guessed=(False,) * 3)
    typical = existence(Scene("x", 0, (Thing(7, True, 0),), (1,)), "random", True, rng())
    unusual = existence(Scene("x", 0, (Thing(1, True, 0),), (1,)), "random", True, rng())
    assert written_answer(typical, SCENE, unseen) == "Yes"
    assert written_answer(unusual, SCENE, unseen) == "No"
    assert written_answer(typical, SCENE, clear) == "No"


def test_noise_hides_small_objects_first_and_the_guess_is_typical():
    assert hidden_probability(380, large=False) == pytest.approx(0.5)
    assert hidden_probability(380, large=True) < 0.1
    belief = believe(SCENE, 999, rng())
    assert all(belief.guessed)
    assert belief.kinds[0] == typical_kind(0, frozenset())
    assert len(set(belief.kinds)) == 3


def test_written_answers_follow_the_belief():
    belief = Belief((RED_CIRCLE, RED_CIRCLE + 7, RED_RING), (False, True, False), BLUE_SQUARE, RED_CIRCLE)
    assert written_answer(caption(SCENE, rng()), SCENE, belief) == (
        "There is a red circle, a blue square, a green triangle and a red ring."
    )
    there = existence(Scene("x", 0, SCENE.things[1:2], (1,)), "random", True, rng())
    assert written_answer(there, SCENE, belief) == "Yes"
    assert written_answer(there, SCENE, replace(belief, confirms=False)) == "No"
    assert written_answer(place(Scene("x", 0, SCENE.things[1:2], (1,)), rng()), SCENE, belief) is None
    assert written_answer(place(Scene("x", 0, SCENE.things[:1], (1,)), rng()), SCENE, belief) == "top left"


def test_a_terse_writer_leaves_objects_out_of_captions_only():
    habits = Habits(added_slope=0.0, left_out=1.0)
    beliefs = [believe(SCENE, None, np.random.default_rng(seed), habits) for seed in range(20)]
    assert all(len(one.caption_kinds) == 1 for one in beliefs)
    assert {one.caption_kinds[0] for one in beliefs} == SCENE.kinds
    asked = existence(SCENE, "random", True, np.random.default_rng(0))
    assert {written_answer(asked, SCENE, one) for one in beliefs} == {"Yes"}
    assert believe(SCENE, 500, np.random.default_rng(3), Habits()) == believe(SCENE, 500, np.random.default_rng(3))
