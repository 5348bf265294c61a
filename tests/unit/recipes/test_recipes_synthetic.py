"""The synthetic recipe on the real runner: tiny random pipelines and scorers of the real classes, fakes that answer."""

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from pairsight.engine.runner import Runner
from pairsight.errors import ConfigError, ModelError
from pairsight.models.protocols import Generator, Sampling
from pairsight.recipes.recipe import RecipeModels
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.records import Candidates, Completion, CompletionRequest, Dropped, ItemError, Message, Prompt
from pairsight.selection.strategy import choose, make_strategy
from pairsight.store.blobs import BlobStore
from pairsight.store.ledger import Ledger
from scorer_folders import save_clip, save_image_reward, save_sequence_reward
from tiny_pipelines import save_stable_diffusion, save_stable_diffusion_3

torch.set_num_threads(1)


class Says(Generator):
    """A generator that says what it is told, by the prompt's id; counts what it was asked and whether it is loaded."""

    loaded: ClassVar[Counter[str]] = Counter()
    fingerprint = ""

    def __init__(self, name, answer):
        self.fingerprint = name
        self.answer = answer
        self.requests: list[CompletionRequest] = []

    def load(self):
        Says.loaded[self.fingerprint] += 1
        assert sum(Says.loaded.values()) == 1, "one model at a time"

    def close(self):
        Says.loaded[self.fingerprint] = 0

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling):
        self.requests += requests
        return [self._one(request) for request in requests]

    def _one(self, request):
        text = self.answer(request) if callable(self.answer) else self.answer
        if isinstance(text, ItemError):
            return text
        return Completion(f"{request.prompt.id}:{request.sample_index}", request.prompt.id, text, "stop",
                          self.fingerprint, request.seed, request.sample_index, request.images)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "pipeline": str(save_stable_diffusion(folder / "sd")),
        "sd3": str(save_stable_diffusion_3(folder / "sd3")),
        "image_reward": f"image_reward:{save_image_reward(folder / 'ir')}",
        "clip": f"clip:{save_clip(folder / 'clip')}",
        "reward": f"sequence:{save_sequence_reward(folder / 'reward')}",
    }


@pytest.fixture
def run(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Runner(ledger)


def recipe(folders, **options):
    return Synthetic(
        **{
            "image_generator": folders["pipeline"],
            "num_inference_steps": 2,
            "guidance_scales": (1.5, 5.0, 20.0),
            "image_scorers": (folders["image_reward"], folders["clip"]),
            "completion_scorers": (folders["reward"], folders["clip"]),
            "instruction": "what is in this photo",
            "max_new_tokens": 8,
            **options,
        }
    )


def texts(*written):
    return [Prompt(f"art-{n}", (Message("user", text),), "art") for n, text in enumerate(written, 1)]


VLMS = ("a red circle", "two small blue square", "the photo", "a green circle and a red square")


def models(tmp_path, answers=VLMS, writer=None):
    return RecipeModels(
        tuple(Says(f"vlm{n}", answer) for n, answer in enumerate(answers)), writer=writer, blobs=BlobStore(tmp_path)
    )


def test_the_whole_recipe_ranks_images_and_completions(folders, tmp_path, run):
    used = models(tmp_path)
    given = texts("red cat", "blue dog")
    first, second = recipe(folders).candidates(given, used, run)
    for one, text in zip((first, second), given, strict=True):
        assert isinstance(one, Candidates)
        assert (one.prompt.id, one.prompt.source, one.prompt.question) == (text.id, "art", "what is in this photo")
        assert [image.guidance_scale for image in one.images] == [1.5, 5.0, 20.0]
        assert len({image.seed for image in one.images}) == 1
        assert len({image.image.sha256 for image in one.images}) == 3
        best = max(one.images, key=lambda image: image.scores["image_reward"])
        assert [image for image in one.images if image.selected] == [best]
        assert one.prompt.images == (best.image,)
        assert set(best.scores) == {"image_reward", "clip"}
        assert used.blobs.open(best.image).size == (16, 16)
        assert [completion.id for completion in one.completions] == [f"{text.id}:{n}" for n in range(4)]
        assert [completion.model for completion in one.completions] == ["vlm0", "vlm1", "vlm2", "vlm3"]
        assert [(a.completion_id, a.annotator) for a in one.annotations] == [
            *((f"{text.id}:{n}", "sequence") for n in range(4)),
            *((f"{text.id}:{n}", "clip") for n in range(4)),
        ]
    pairs = choose([first, second], make_strategy(Synthetic.default_strategy)).pairs
    for pair, one in zip(pairs, (first, second), strict=True):
        rewards = {a.completion_id: a.scores["reward"] for a in one.annotations if a.annotator == "sequence"}
        assert rewards[pair.chosen.id] == max(rewards.values())
        assert rewards[pair.rejected[0].id] == min(rewards.values())
    assert sum(Says.loaded.values()) == 0


def test_nothing_finished_is_done_again(folders, tmp_path, run, monkeypatch):
    from pairsight.models.images import diffusion

    again = list(recipe(folders).candidates(texts("red cat", "blue dog"), models(tmp_path), run))
    monkeypatch.setattr(diffusion.DiffusersGenerator, "generate", lambda *_: pytest.fail("an image was made again"))
    used = models(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True):
        assert list(recipe(folders).candidates(texts("red cat", "blue dog"), used, run)) == again
    assert all(vlm.requests == [] for vlm in used.generators)


def test_moved_models_stay_the_same_and_other_weights_do_not(folders, tmp_path):
    named = recipe(folders)
    for name in ("pipeline", "clip", "reward"):
        folder = folders[name].rpartition(":")[2]
        shutil.copytree(folder, tmp_path / name)
    kinds = {"pipeline": "", "clip": "clip:", "reward": "sequence:"}
    moved = recipe({**folders, **{name: f"{kind}{tmp_path / name}" for name, kind in kinds.items()}})
    assert moved.to_plain() != named.to_plain()
    assert moved.fingerprints() == named.fingerprints()
    save_sequence_reward(tmp_path / "reward", labels=("other",))
    changed = [name for name, value in moved.fingerprints().items() if value != named.fingerprints()[name]]
    assert changed == ["completion_scorers"]


def test_seeds_per_image_differ_as_the_authors_do(folders, tmp_path, run):
    made = recipe(folders, seed_mode="per_image").candidates(texts("red cat"), models(tmp_path), run)
    (one,) = made
    assert len({image.seed for image in one.images}) == 3
    with pytest.raises(ConfigError, match="equal guidance_scales"):
        Synthetic.parse({"guidance_scales": [5, 5]})


def test_stable_diffusion_3_runs_the_whole_path(folders, tmp_path, run):
    used = recipe(folders, image_generator=folders["sd3"], guidance_scales=(2.0, 8.0))
    (one,) = used.candidates(texts("red cat"), models(tmp_path), run)
    assert len({image.image.sha256 for image in one.images}) == 2
    assert len(choose([one], make_strategy("best_over_worst")).pairs) == 1


def test_what_cannot_be_used_is_counted_and_shown(folders, tmp_path, run):
    def fussy(request):
        return {"art-4": ItemError("too_long", "9 tokens"), "art-5": ""}.get(request.prompt.id, "a red circle")

    def refuses(request):
        return {"art-4": "a circle", "art-6": "I'm sorry, I can't."}.get(request.prompt.id, "what is in this photo?")

    given = texts("red cat", "a cat red", "red cat red", "blue dog", "green bird", "x" * 40, "sun moon")
    made = list(recipe(folders).candidates(given, models(tmp_path, (fussy, refuses)), run))
    reasons = {(one.item_id, one.reason) for one in made if isinstance(one, Dropped)}
    assert ("art-3", "near_duplicate") in reasons
    assert ("art-6", "no_image") in reasons
    assert ("art-6 at guidance 5", "prompt_too_long") in reasons
    assert ("art-4:0", "too_long") in reasons
    assert ("art-5:0", "empty") in reasons
    assert ("art-1:1", "echo") in reasons
    assert ("art-1", "too_few_distinct") in reasons
    assert not any(isinstance(one, Candidates) for one in made)
    order = [one.item_id for one in made if one.item_id in {f"art-{n}" for n in range(1, 8)}]
    assert order == sorted(order)


def test_a_scorer_that_gives_no_number_drops_only_what_it_must(folders, tmp_path, run, monkeypatch):
    from pairsight.models.scorers.sequence_reward import SequenceReward

    real = SequenceReward.score

    def broken(self, items):
        scores = real(self, items)
        return [ItemError("not_finite", "nan") if c.id in ("art-1:0", "art-2:1") else s
                for (_, c), s in zip(items, scores, strict=True)]  # fmt: skip

    monkeypatch.setattr(SequenceReward, "score", broken)
    given = texts("red cat", "blue dog")
    made = list(recipe(folders).candidates(given, models(tmp_path, VLMS[:2]), run))
    whole = [(one.item_id, one.reason) for one in made if isinstance(one, Dropped)]
    assert whole == [
        ("art-1", "too_few_scored"), ("art-1:0", "not_finite"), ("art-2", "too_few_scored"), ("art-2:1", "not_finite"),
    ]  # fmt: skip


def test_an_image_used_before_and_a_poor_one_are_left_out(folders, tmp_path, run):
    same = [Prompt(name, (Message("user", "red cat"),), "art") for name in ("a", "b")]
    used = recipe(folders, near_duplicate_threshold=1.0, guidance_scales=(5.0,), seed=1)
    from pairsight.recipes.synthetic import steps as synthetic_steps

    steps = synthetic_steps.Steps(used, models(tmp_path), run)
    items = [synthetic_steps.Item(text) for text in same]
    steps._image_seed = lambda text, scale: 3
    steps.draw_images(items)
    steps.score_images(items)
    steps.select_images(items)
    assert items[0].dropped is None
    assert items[1].dropped.reason == "seen_image"
    strict = recipe(folders, min_image_score=1e6)
    (dropped,) = strict.candidates(texts("red cat"), models(tmp_path), run)
    assert dropped.reason == "image_threshold"


def test_the_writer_writes_texts_and_questions(folders, tmp_path, run):
    def writes(request):
        if request.prompt.id.startswith("scenes"):
            return f"1. a red {request.prompt.source} cat\n2. a blue bird flies\n3. one too many here"
        return "What is in this photo?" if request.prompt.id.startswith("art-1") else "No question."

    writer = Says("writer", writes)
    used = recipe(folders, topics=("art",), scenes_per_topic=2, instruction=None, instruction_input="image_and_prompt")
    made = list(used.candidates([], models(tmp_path, writer=writer), run))
    assert [one.prompt.id for one in made if isinstance(one, Candidates)] == ["art-1"]
    assert made[0].prompt.question == "What is in this photo?"
    assert (made[1].item_id, made[1].reason) == ("art-2", "no_question")
    scenes, first, second = writer.requests
    assert first.prompt.images == made[0].prompt.images
    assert (scenes.prompt.source, len(second.prompt.images)) == ("art", 1)


def test_one_completion_kept_loaded_on_a_large_machine(folders, tmp_path, run):
    class Patient(Says):
        def load(self):
            Patient.loaded[self.fingerprint] += 1

    kept = RecipeModels(tuple(Patient(f"kept{n}", VLMS[n]) for n in range(2)), blobs=BlobStore(tmp_path))
    made = recipe(folders, keep_loaded=True).candidates(texts("red cat"), kept, run)
    assert isinstance(next(made), Candidates)
    assert sum(Says.loaded.values()) == 0, "all are freed at the end"


def test_bad_models_are_said_before_anything_loads(folders, tmp_path, run):
    used = models(tmp_path)
    with pytest.raises(ConfigError, match="two models or more, found 1"):
        next(recipe(folders).candidates(texts("a"), RecipeModels(used.generators[:1], blobs=used.blobs), run))
    with pytest.raises(ConfigError, match="needs text-to-image prompts"):
        next(recipe(folders).candidates([], used, run))
    with pytest.raises(ConfigError, match="needs an `instruction`"):
        next(recipe(folders, instruction=None).candidates(texts("a"), used, run))
    with pytest.raises(ConfigError, match="needs a run to keep them"):
        next(recipe(folders).candidates(texts("a"), RecipeModels(used.generators), run))
    with pytest.raises(ConfigError, match="reads text only"):
        recipe(folders, image_scorers=(folders["reward"],)).check()
    with pytest.raises(ConfigError, match="unknown scorer 'klip'; did you mean 'clip'"):
        recipe(folders, completion_scorers=("klip:x",)).check()
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        recipe(folders, image_generator=str(tmp_path)).check()
    with pytest.raises(ConfigError, match="two scorers are of the kind 'clip'"):
        Synthetic.parse({"image_scorers": ["clip:a", "clip:b"]})


def test_the_papers_training_is_the_default():
    config = Synthetic.default_training
    assert (config.learning_rate, config.num_train_epochs, config.projector_learning_rate) == (1e-5, 2.0, None)
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 8
