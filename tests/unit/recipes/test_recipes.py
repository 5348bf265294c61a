import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from pairsight.engine.runner import Runner
from pairsight.errors import ConfigError
from pairsight.models.protocols import Annotator, Generator, Sampling
from pairsight.recipes.feedback import Feedback
from pairsight.recipes.recipe import Recipe, RecipeModels, with_answers
from pairsight.recipes.seva import SeVa
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    CompletionRequest,
    Dropped,
    ImageRef,
    ItemError,
    Message,
    Prompt,
)
from pairsight.registry import recipes
from pairsight.selection.strategy import choose, make_strategy
from pairsight.store.ledger import Ledger


def prompts(*names, image="a"):
    return [Prompt(name, (Message("user", f"What is {name}?", (ImageRef(image * 64),)),)) for name in names]


class Echo(Generator):
    """A generator that says what it was asked, fails on prompts called `bad*`, and counts its work."""

    fingerprint = ""

    def __init__(self, name="echo"):
        self.fingerprint = name
        self.requests: list[CompletionRequest] = []
        self.samplings: list[Sampling] = []

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling):
        self.requests += requests
        self.samplings.append(sampling)
        return [self._one(request) for request in requests]

    def _one(self, request):
        if request.prompt.id.startswith("bad"):
            return ItemError("too_long", "the prompt has 9 tokens")
        seen = request.images or request.prompt.images
        noise = [(image.distortion.name, image.distortion.seed) for image in seen if image.distortion]
        text = f"{request.prompt.question} {noise or 'clean'} {request.seed}"
        return Completion(f"{request.prompt.id}:{request.sample_index}", request.prompt.id, text, "stop",
                          self.fingerprint, request.seed, request.sample_index, request.images)  # fmt: skip


@dataclass
class Rater(Annotator):
    """Rates by the sample's index; refuses prompts called `odd*`."""

    fingerprint: str = "rater"
    calls: int = 0

    def annotate(self, prompt, completions):
        self.calls += 1
        if prompt.id.startswith("odd"):
            return [ItemError("refused", "no") for _ in completions]
        names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
        return [Annotation(one.id, "rater", dict.fromkeys(names, 4 - one.sample_index)) for one in completions]


@pytest.fixture
def run(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Runner(ledger)


def test_seva_asks_once_clean_and_k_times_distorted(run):
    generator = Echo()
    recipe = SeVa(noise_step=500, num_distortions=2, seed=3)
    (candidates,) = recipe.candidates(prompts("p"), RecipeModels((generator,)), run)
    clean, *noisy = generator.requests
    assert (clean.images, clean.seed, clean.sample_index) == (None, 0, 0)
    assert [request.images[0].distortion.parameters for request in noisy] == [{"step": 500}] * 2
    assert noisy[0].images[0].distortion.seed != noisy[1].images[0].distortion.seed
    assert {request.images[0].sha256 for request in noisy} == {"a" * 64}
    assert generator.samplings == [Sampling(temperature=0.0, max_new_tokens=512)]
    assert [one.id for one in candidates.completions] == ["p:0", "p:1", "p:2"]
    (pair,) = choose([candidates], make_strategy(recipe.default_strategy)).pairs
    assert pair.chosen.images is None
    assert len(pair.rejected) == 2


def test_seva_keeps_the_prompts_order_and_counts_what_it_cannot_use(run):
    text_only = Prompt("text", (Message("user", "2+2?"),))
    given = [*prompts("bad1", "p1"), text_only, *prompts("p2")]
    made = list(SeVa().candidates(given, RecipeModels((Echo(),)), run))
    assert [one.item_id if isinstance(one, Dropped) else one.prompt.id for one in made] == ["bad1", "p1", "text", "p2"]
    assert (made[0].stage, made[0].reason) == ("generate", "too_long")
    assert "0 of 2 completions; the prompt has 9 tokens" in made[0].detail
    assert (made[2].stage, made[2].reason) == ("read", "no_image")


def test_seva_seed_changes_distortions_only():
    def images(seed, name="p"):
        return [request.images for request in SeVa(seed=seed).requests(prompts(name)[0])]

    assert images(0)[0] is None
    (distorted,) = images(0)[1]
    # the item's key holds it: runs made before rely on it
    assert distorted.distortion.seed == int(hashlib.sha256(b'["distortion", 0, "p", 1]').hexdigest()[:8], 16) // 2
    assert images(0)[1] != images(1)[1]
    assert images(0, "p")[1] != images(0, "q")[1]


def test_seva_null_control_shows_the_clean_image_every_time(run):
    generator = Echo()
    recipe = SeVa(null_control=True, temperature=1.0)
    made = list(recipe.candidates(prompts("p"), RecipeModels((generator,)), run))
    assert [request.images for request in generator.requests] == [None, None]
    assert generator.requests[0].seed != generator.requests[1].seed
    assert len(choose(made, make_strategy(recipe.default_strategy)).pairs) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distortion": "moco"}, "there are random_flip"),
        ({"distortion": "moco_v2", "noise_step": 5}, "noise_step belongs to diffusion"),
        ({"null_control": True}, "temperature above 0"),
        ({"noise_step": 1000}, "noise_step"),
        ({"num_distortion": 2}, "did you mean 'num_distortions'"),
    ],
)
def test_seva_options(options, message):
    with pytest.raises(ConfigError, match=message):
        SeVa.parse(options)


def test_same_content_under_two_ids_is_computed_once_and_named_for_each(run):
    generator = Echo()
    question = (Message("user", "What?", (ImageRef("a" * 64),)),)
    given = [Prompt("one", question), Prompt("two", question)]
    made = list(SeVa().candidates(given, RecipeModels((generator,)), run))
    assert len(generator.requests) == 3  # the clean one is shared, the distortions are each prompt's own
    assert [one.completions[0].id for one in made] == ["one:0", "two:0"]
    assert [one.completions[1].prompt_id for one in made] == ["one", "two"]


def test_feedback_draws_and_rates(run):
    generator, rater = Echo(), Rater()
    recipe = Feedback()
    made = list(recipe.candidates(prompts("bad", "p1", "odd", "p2"), RecipeModels((generator,), rater), run))
    assert [type(one) for one in made] == [Dropped, Candidates, Dropped, Candidates]
    assert [(made[0].stage, made[0].reason), (made[2].stage, made[2].reason)] == [
        ("generate", "too_long"),
        ("annotate", "refused"),
    ]
    assert (made[0].item_id, made[2].item_id) == ("bad", "odd")
    assert len({request.seed for request in generator.requests}) == 16
    assert generator.samplings[0] == Sampling(temperature=0.7, max_new_tokens=1024)
    assert [one.completion_id for one in made[1].annotations] == ["p1:0", "p1:1", "p1:2", "p1:3"]
    selection = choose(made, make_strategy(recipe.default_strategy))
    assert [pair.chosen.id for pair in selection.pairs] == ["p1:0", "p2:0"]
    assert len(selection.dropped) == 2


def test_feedback_models_take_turns(run):
    generators = (Echo("a"), Echo("b"), Echo("c"))
    (candidates,) = Feedback(num_completions=5).candidates(prompts("p"), RecipeModels(generators, Rater()), run)
    assert [one.model for one in candidates.completions] == ["a", "b", "c", "a", "b"]
    assert [one.id for one in candidates.completions] == [f"p:{index}" for index in range(5)]


def test_the_annotator_answers_too(run):
    recipe = Feedback(num_completions=2, annotator_answers=True)
    models = RecipeModels((Echo(),), Rater(), answerer=Echo("teacher"))
    made = list(recipe.candidates(prompts("p", "odd", "q"), models, run))
    assert [type(one) for one in made] == [Candidates, Dropped, Candidates]
    answer = made[2].completions[-1]
    assert (answer.id, answer.model, answer.derived_from, answer.seed) == ("q:2", "teacher", "annotator", 0)
    assert len(made[2].annotations) == 2
    assert [one.completion.model for one in choose(made, make_strategy("sft")).demonstrations] == ["teacher", "teacher"]
    assert [pair.chosen.model for pair in choose(made, make_strategy("preference_rule", min_margin=1)).pairs] == [
        "echo",
        "echo",
    ]
    with pytest.raises(ConfigError, match="only rates"):
        list(recipe.candidates(prompts("p"), RecipeModels((Echo(),), Rater()), run))


def test_given_completions_are_rated_and_keep_their_annotations(run):
    (prompt,) = prompts("p")
    given = Candidates(
        prompt,
        tuple(Completion(f"p:{index}", "p", text, "stop", "other", 0, index) for index, text in enumerate("ab")),
        (Annotation("p:1", "people", {"preference": 1.0}),),
    )
    (made,) = Feedback().annotate([given], RecipeModels((), Rater()), run)
    assert [one.annotator for one in made.annotations] == ["people", "rater", "rater"]
    assert made.completions == given.completions


def test_the_datasets_answers_join_the_candidates(run):
    made = list(SeVa().candidates(prompts("p", "bad", "q"), RecipeModels((Echo(),)), run))
    joined = list(with_answers(made, {"p": "A dot.", "bad": "x"}))
    assert joined[1:] == made[1:]
    answer = joined[0].completions[-1]
    assert (answer.id, answer.text, answer.derived_from) == ("p:2", "A dot.", "dataset")
    selection = choose(joined, make_strategy("sft", sft_source="dataset"))
    assert [one.completion.text for one in selection.demonstrations] == ["A dot."]
    assert [one.reason for one in selection.dropped] == ["too_long", "no_answer"]
    (pair, _) = choose(joined, make_strategy("clean_over_distorted")).pairs
    assert [one.id for one in pair.rejected] == ["p:1"]


def test_nothing_is_done_twice(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first = list(Feedback().candidates(prompts("p", "q"), RecipeModels((Echo(),), Rater()), Runner(ledger)))
    generator, rater = Echo(), Rater()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        again = list(Feedback().candidates(prompts("p", "q"), RecipeModels((generator,), rater), Runner(ledger)))
    assert again == first
    assert (generator.requests, rater.calls) == ([], 0)


def test_models_that_are_missing_or_too_many(run):
    with pytest.raises(ConfigError, match="needs an annotator"):
        list(Feedback().candidates(prompts("p"), RecipeModels((Echo(),)), run))
    with pytest.raises(ConfigError, match="takes 1 to num_completions = 2 models, found 3"):
        list(Feedback(num_completions=2).candidates(prompts("p"), RecipeModels((Echo(),) * 3, Rater()), run))
    with pytest.raises(ConfigError, match="takes one model, found 2"):
        list(SeVa().candidates(prompts("p"), RecipeModels((Echo(),) * 2), run))


@pytest.mark.parametrize("name", ["seva", "feedback"])
def test_recipes_are_found_by_name_and_their_training_defaults_exist(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert recipe.parse(recipe().to_plain()) == recipe()
    training = recipe.default_training
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert training.lora_alpha == 2 * training.lora_r


def test_an_annotator_that_a_recipe_does_not_use_is_refused_from_python_too(tmp_path):
    from pairsight.images.source import UnpackedImages, WithImages
    from pairsight.pipeline.build import build

    with pytest.raises(ConfigError, match="recipe 'seva' uses no annotator"):
        build(SeVa(), WithImages((), UnpackedImages()), model="m", run=tmp_path / "run", annotator="x")
    assert not (tmp_path / "run").exists()


class Least(Recipe):
    """What a recipe must say, and nothing else."""

    name = "least"
    default_strategy = "best_over_worst"
    default_training = {"loss": "dpo"}  # noqa: RUF012 - pydantic keeps it apart

    def candidates(self, prompts, models, run):
        yield from ()


def test_what_a_recipe_does_not_say_has_a_default(run):
    recipe = Least()
    assert (recipe.roles, recipe.default_sft_training, recipe.takes_completions) == (
        ("annotator", "writer"),
        None,
        False,
    )
    assert recipe.default_training.given() == {"loss": "dpo"}  # a plain mapping is parsed
    assert (recipe.check(), recipe.fingerprints()) == (None, {})
    with pytest.raises(ConfigError, match="'least' makes its own completions"):
        recipe.annotate((), RecipeModels(()), run)


def test_an_annotator_rates_batches_prompt_by_prompt_unless_it_says_otherwise():
    completions = tuple(Completion(f"p:{n}", "p", "x", "stop", "m", 0, n) for n in range(2))
    (prompt,), rater = prompts("p"), Rater()
    assert rater.annotate_batch([Candidates(prompt, completions)] * 2) == [rater.annotate(prompt, completions)] * 2
    assert (rater.load(), rater.close()) == (None, None)
