"""Scenes and questions in a user's own words; what the writer thinks, and what it does not finish."""

import pytest

from pairsight.errors import ConfigError
from pairsight.models.protocols import Generator
from pairsight.recipes.recipe import RecipeModels
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.recipes.synthetic.steps import Item, Steps
from pairsight.recipes.synthetic.texts import first_line
from pairsight.records import Completion, ImageCandidate, ImageRef, ItemError, Message, Prompt
from pairsight.store.blobs import BlobStore


class Writes(Generator):
    """Answers what it is told by the beginning of a prompt's id; keeps what it was asked."""

    fingerprint = "writer"

    def __init__(self, **answers):
        self.answers, self.asked = answers, {}

    def generate(self, requests, sampling):
        for one in requests:
            self.asked[one.prompt.id] = (one.prompt.messages[0].text, sampling.max_new_tokens)
            text, ending = self.answers[one.prompt.id.split("-")[1]]
            yield Completion("c", one.prompt.id, text, ending, "writer", 0, 0)


def steps(tmp_path, writer, **options):
    def run(stage, items):
        return list(stage.process(list(items)))

    return Steps(Synthetic(**options), RecipeModels((), writer=writer, blobs=BlobStore(tmp_path)), run)


def test_scenes_in_own_words_without_the_writers_thinking(tmp_path):
    (tmp_path / "scenes.txt").write_text("Give {count} captions about {topic}, as a list.")
    writer = Writes(art=("<think>1. A thought of mine</think>1. A red barn burns.\n2. A dog sleeps here.", "stop"),
                    school=("<think>what shall I write", "length"))  # fmt: skip
    made = steps(
        tmp_path, writer, topics=("art", "school"), scenes_per_topic=3, scene_prompt=str(tmp_path / "scenes.txt"),
        writer_max_new_tokens=9000,
    )  # fmt: skip
    texts = made.write_texts()
    assert [text.question for text in texts] == ["A red barn burns.", "A dog sleeps here."]
    assert writer.asked["scenes-art-0"] == ("Give 3 captions about art, as a list.", 9000)
    (lost,) = made.not_written
    assert (lost.item_id, lost.stage, lost.reason) == ("scenes-school-0", "texts", "length")
    assert "raise writer_max_new_tokens" in lost.detail


def test_questions_in_own_words_are_the_first_line_of_the_answer(tmp_path):
    image = ImageCandidate(ImageRef("a" * 64), "t", 5.0, 0, {}, selected=True)
    items = [Item(Prompt(f"{name}-1", (Message("user", f"A {name} {{x}}"),)), (image,)) for name in ("cat", "dog")]
    writer = Writes(**{"1": ("Here it is:\n\n1. Question: “Describe what the cat does.”\nMore", "stop")})
    made = steps(tmp_path, writer, instruction_prompt="Text: {prompt}\nWrite an instruction.\n")
    made.write_instructions(items)
    assert [item.prompt.question for item in items] == ["Describe what the cat does."] * 2
    assert writer.asked["cat-1-instruction"] == ("Text: A cat {x}\nWrite an instruction.", 128)
    ours = steps(tmp_path, writer)
    ours.write_instructions(items[:1])
    assert items[0].dropped.reason == "no_question"  # ours asks for How, What or Why


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b", "a b"),
        ("\n\nQuestion: is it red?\nyes", "is it red?"),
        ("Sure:\n- **Count them**", "Count them"),
        ("", None),
    ],
)
def test_the_first_line_that_says_something(text, line):
    assert first_line(text) == line


def test_the_places_are_needed():
    with pytest.raises(ConfigError, match=r"must hold \{count\}"):
        Synthetic(scene_prompt="about {topic}\n")
    with pytest.raises(ConfigError, match=r"must hold \{prompt\}"):
        Synthetic(instruction_prompt="ask\n")


def test_what_is_given_makes_the_wording_useless():
    unused = Synthetic(instruction="Describe it.").unused(prompts=True, completions=False)
    names = {name for found in unused.values() for name in found}
    assert {"scene_prompt", "instruction_prompt", "writer_max_new_tokens"} <= names


def test_an_error_of_the_writer_is_counted(tmp_path):
    class Fails(Generator):
        fingerprint = "fails"

        def generate(self, requests, sampling):
            return [ItemError("refused", "no") for _ in requests]

    made = steps(tmp_path, Fails(), topics=("art",), scenes_per_topic=1)
    with pytest.raises(ConfigError, match="the writer gave no list of scenes"):
        made.write_texts()
    assert [one.reason for one in made.not_written] == ["refused"]
