"""The option with the lowest mean loss, against the model's own loss on each complete sequence."""

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
from pairsight.images.source import FileImages
from pairsight.models.endpoint.model import EndpointModel
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.local.processor import completions_ids, encode
from pairsight.records import Message, Prompt
from pairsight.store.blobs import BlobStore
from pairsight.store.ledger import Ledger
from pairsight.training.examples import Tokeniser


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
        ids = completions_ids(processor, model.generation_config, [text], ["stop"])[0]
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
        losses = stage._losses(
            OptionRequest(prompt, options), Tokeniser(processor, model, stage._loaded[2], images, 64)
        )
        assert losses == pytest.approx(expected, abs=2e-4)
        assert made.text == min(expected, key=expected.get)
    stage.close()


def test_a_models_prompt_suffix_is_used_before_the_options_too(world):
    images, line = FileImages(world), "Answer with the best scores."
    plain, asked = (RankOptions(LocalVLM(world / "model", images, prompt_suffix=text)) for text in ("", line))
    options = {"A": "a red circle", "B": "a blue square", "C": "two"}
    prompt = Prompt("a", (Message("user", "what is in the image?", (images.ref("a.jpg"),)),))
    item = OptionRequest(prompt, options)
    asked.setup()
    processor, model, family = asked._loaded
    (made,) = asked.process([item])
    under_line = Prompt("a", (Message("user", f"what is in the image?\n{line}", prompt.images),))
    expected = own_losses(model, processor, under_line, images, options)
    losses = asked._losses(item, Tokeniser(processor, model, family, images, 64))
    assert losses == pytest.approx(expected, abs=2e-4)
    assert losses != pytest.approx(own_losses(model, processor, prompt, images, options), abs=2e-4)
    assert made.model == asked.generator.fingerprint
    assert plain.key(item) | {"model": ""} == asked.key(item) | {"model": ""}
    assert plain.key(item) != asked.key(item), "kept answers of the model without suffix are not reused"
    asked.close()


def test_both_metrics_of_seed_bench_in_one_evaluation(world):
    path = official.seed_bench(world / "seed.json")
    tasks = make_tasks({"seed_bench_likelihood": path, "seed_bench": path})
    content = evaluate_models(
        str(world / "model"), tasks, lambda adapter, images: LocalVLM(world / "model", images, adapter),
        out=world / "out", images=world,
        settings=EvaluationSettings(num_resamples=20),
    ).to_plain()  # fmt: skip
    by_likelihood = content["benchmarks"]["seed_bench_likelihood"]
    assert set(by_likelihood["metrics"]) == {"likelihood_accuracy"}
    assert by_likelihood["metrics"]["likelihood_accuracy"]["unparsed"] == 0  # every answer is a letter
    assert set(content["benchmarks"]["seed_bench"]["metrics"]) == {"letter_accuracy"}
    assert content["models"]["base"].startswith("sha256:")


def test_an_endpoint_cannot_rank(world):
    elsewhere = EndpointModel("endpoint:gpt@http://127.0.0.1:9/v1", BlobStore(world))
    with pytest.raises(ConfigError, match="only a local model gives"):
        RankOptions.of(elsewhere)
    path = official.seed_bench(world / "seed.json")
    tasks = make_tasks({"seed_bench": path, "seed_bench_likelihood": path})
    with pytest.raises(ConfigError, match="only a local model gives"):  # before the letters are paid for
        evaluate_models("gpt", tasks, lambda adapter, images: elsewhere, out=world / "refused", images=world)
    with Ledger(world / "refused" / "ledger.sqlite") as ledger:
        assert ledger.read("SELECT count(*) FROM items", ()) == [(0,)]
