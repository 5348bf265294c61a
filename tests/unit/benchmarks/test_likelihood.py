"""The option with the lowest mean loss, against the model's own loss on each whole sequence."""

import official
import pytest
import torch
from PIL import Image

import families
from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.likelihood import OptionRequest, RankOptions
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import ConfigError
from pairsight.images.files import FileImages
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.local.processor import completion_ids, encode
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Message, Prompt


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("likelihood")
    families.build("llava", folder / "model", seed=3)
    for number, name in enumerate("ab"):
        Image.new("RGB", (32, 32), (90 * number, 60, 200)).save(folder / f"{name}.jpg")
    return folder


def own_losses(model, processor, prompt, images, options):
    """The model's cross-entropy on prompt + option + end, prompt masked, one sequence at a time."""
    encoded = encode(processor, prompt, images)
    found = {}
    for letter, text in options.items():
        ids = completion_ids(processor, model.generation_config, text, "stop")
        inputs = torch.tensor([encoded.input_ids + ids])
        labels = inputs.clone()
        labels[:, : len(encoded.input_ids)] = -100
        with torch.no_grad():
            found[letter] = float(model(input_ids=inputs, labels=labels, **encoded.tensors).loss)
    return found


def test_losses_are_the_models_own(world):
    images = FileImages(world)
    stage = RankOptions(LocalVLM(world / "model", images))
    stage.setup()
    processor, model, _ = stage._loaded
    options = {"A": "a red circle", "B": "a blue square", "C": "two", "D": "a red"}
    for name in "ab":
        prompt = Prompt(name, (Message("user", "what is in the image?", (images.ref(f"{name}.jpg"),)),))
        expected = own_losses(model, processor, prompt, images, options)
        (made,) = stage.process([OptionRequest(prompt, options)])
        from pairsight.training.examples import Tokeniser

        losses = stage._losses(
            OptionRequest(prompt, options), Tokeniser(processor, model, stage._loaded[2], images, 64)
        )
        assert losses == pytest.approx(expected, abs=2e-4)
        assert made.text == min(expected, key=expected.get)
    stage.close()


def maker(world):
    def make(adapter, sampling, images):
        return GenerateCompletions(generator=LocalVLM(world / "model", images, adapter), sampling=sampling)

    return make


def test_both_metrics_of_seed_bench_in_one_evaluation(world):
    path = official.seed_bench(world / "seed.json")
    tasks = make_tasks({"seed_bench_likelihood": path, "seed_bench": path})
    content = evaluate_models(
        str(world / "model"), tasks, maker(world), out=world / "out", images=world,
        settings=EvaluationSettings(num_resamples=20),
    ).to_plain()  # fmt: skip
    by_likelihood = content["benchmarks"]["seed_bench_likelihood"]
    assert set(by_likelihood["metrics"]) == {"likelihood_accuracy"}
    assert by_likelihood["metrics"]["likelihood_accuracy"]["unparsed"] == 0  # every answer is a letter
    assert set(content["benchmarks"]["seed_bench"]["metrics"]) == {"letter_accuracy"}
    assert content["models"]["base"].startswith("sha256:")


def test_an_endpoint_cannot_rank(world):
    class Elsewhere:
        generator = object()

    with pytest.raises(ConfigError, match="only a local model gives"):
        RankOptions.of(Elsewhere())
