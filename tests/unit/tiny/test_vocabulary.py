"""The tokenizer: the world's words are one token each, nothing else is lost."""

import pytest

from pairsight.tiny.world.questions import SHORT_ANSWER_SUFFIX, benchmark_questions
from pairsight.tiny.world.scenes import scenes, stream
from pairsight.tiny.world.text_tasks import TASKS, text_question
from pairsight.tiny.world.vocabulary import ASSISTANT, BOS, EOS, IMAGE, USER, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_no_question_or_answer_of_the_world_needs_letters(tokenizer):
    asked = [q for i, s in enumerate(scenes("train", 150)) for q in benchmark_questions(s, stream("train", 0, i))]
    asked += [text_question(task, stream("train", 0, i, 9)) for i in range(60) for task in TASKS]
    for text in {part for q in asked for part in (q.text, q.answer, SHORT_ANSWER_SUFFIX)}:
        pieces = tokenizer.encode(text).tokens
        assert all((piece.startswith("▁") and len(piece) > 1) or piece in ".,?" for piece in pieces), (text, pieces)


@pytest.mark.parametrize("text", ["Describe this image in detail.", "naïve über 日本 🙂 (x=3%)", "a\tb  c", "redder"])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == " ".join(text.split())


def test_special_tokens_are_one_token_and_do_not_move_the_words_beside_them(tokenizer):
    tokens = tokenizer.encode(f"{BOS}{USER}{IMAGE}\nIs there a red circle?{ASSISTANT}Yes{EOS}").tokens
    words = ["▁Is", "▁there", "▁a", "▁red", "▁circle", "?"]
    assert tokens == [BOS, USER, IMAGE, *words, ASSISTANT, "▁Yes", EOS]
