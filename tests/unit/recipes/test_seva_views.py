"""SeVa's views: several kinds, none of them twice the same; what counts as equal; answers of the authors' files."""

from collections import Counter

import pytest

from pairsight.errors import ConfigError
from pairsight.recipes.seva import SeVa
from pairsight.records import Candidates, Completion, ImageRef, Message, Prompt
from pairsight.selection.clean_over_distorted import CleanOverDistorted

KINDS = ("moco_v2", "random_flip", "diffusion:500")


def prompt(name="p"):
    return Prompt(name, (Message("user", "What?", (ImageRef("a" * 64),)),))


def names(recipe, name="p"):
    requests = list(recipe.requests(prompt(name)))[1:]
    return [request.images[0].distortion.name for request in requests]


def test_views_of_different_kinds():
    recipe = SeVa(distortion=KINDS, num_distortions=3)
    assert sorted(names(recipe)) == ["diffusion", "moco_v2", "random_flip"]
    one = SeVa(distortion=KINDS)
    drawn = Counter(names(one, f"p{number}")[0] for number in range(300))
    assert all(70 < count < 130 for count in drawn.values()), drawn
    assert len(drawn) == 3
    mixed = SeVa(distortion="moco_v2,diffusion_weak", noise_step=500, num_distortions=4)
    views = [request.images[0].distortion for request in list(mixed.requests(prompt()))[1:]]
    assert Counter((view.name, view.parameters.get("step")) for view in views) == {
        ("moco_v2", None): 2,
        ("diffusion", 500): 2,
    }
    assert len({view.seed for view in views}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distortion": "random_flip", "num_distortions": 2},
            "would show 'random_flip' twice, which gives equal views",
        ),
        ({"distortion": KINDS, "num_distortions": 4}, "take num_distortions=3"),
        ({"distortion": ("moco_v2", "moco_v2")}, "name each distortion once"),
        ({"distortion": ()}, "name at least one"),
        ({"distortion": ("moco_v2", "diffusion:500"), "noise_step": 800}, "give one of them"),
        ({"distortion": "moco_v2", "render": "llava-1.5"}, "render belongs to diffusion"),
        ({"render": "llava"}, "must be one of llava-1.5"),
    ],
)
def test_views_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        SeVa(**options)


def candidates(clean, *others):
    made = [Completion(f"p:{index}", "p", text, "stop", "m", 0, index, (ImageRef("b" * 64),) if index else None)
            for index, text in enumerate((clean, *others))]  # fmt: skip
    return Candidates(prompt(), tuple(made))


def test_equality_is_a_choice():
    given = candidates("A dot.\nIt is red.", "A dot.It is red.", "a dot. it is red", "A dot.\nIt is red.")
    rejected = {
        equality: [one.text for one in CleanOverDistorted(equality=equality)(given).rejected]
        for equality in ("exact", "newlines")
    }
    assert rejected == {"exact": ["A dot.It is red.", "a dot. it is red"], "newlines": ["a dot. it is red"]}
    # without a space in the place of the newline a reader sees another word, so that rule keeps it as well
    assert [one.text for one in CleanOverDistorted()(given).rejected] == ["A dot.It is red."]
    assert CleanOverDistorted(equality="exact")(candidates("A dot.", "A dot.", " ")).reason == "identical"


def test_the_authors_texts_have_no_newlines():
    pair = CleanOverDistorted(equality="exact", remove_newlines=True)(candidates("A\ndot.", "A\nb.", "A dot."))
    assert (pair.chosen.text, [one.text for one in pair.rejected]) == ("Adot.", ["Ab.", "A dot."])


def test_options_at_their_defaults_change_no_record():
    from pairsight.config import recorded

    assert recorded(CleanOverDistorted()) == {}
    old = {"distortion", "noise_step", "num_distortions", "temperature", "max_new_tokens", "null_control", "seed"}
    assert recorded(SeVa()).keys() == old
    assert recorded(SeVa(render="gemma-3"))["render"]["size"] == 896


def test_several_views_train_with_all_negatives_at_once():
    from pairsight.pipeline.align import AlignSpec
    from pairsight.registry import NamedPiece

    def spec(views, **values):
        options = {"data": "d", "model": "m", **values}
        return AlignSpec.parse(options, "seva", None, NamedPiece("seva", {"num_distortions": views})).training

    assert (spec(1).loss, spec(3).loss, spec(3, loss="dpo").loss) == ("dpo", "multi_negative", "dpo")
    assert (spec(3).beta, spec(3).lora_r, spec(3).learning_rate) == (0.1, 1024, 2e-6)
