"""Scorers of (prompt, completion): values by hand, over-long and hostile texts, what is refused."""

import pytest
import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from pairsight.errors import ConfigError, ModelError
from pairsight.models.protocols import Generator
from pairsight.models.scorers.armorm import ArmoRM
from pairsight.models.scorers.armorm_model import ASSISTANT_HEADER, OBJECTIVES, ArmoRMModel, gate_position
from pairsight.models.scorers.base import ImageAware, sentences_of
from pairsight.models.scorers.clip import ClipScore
from pairsight.models.scorers.names import load_completion_scorer, load_image_scorer, parse_scorer, scorer_kind
from pairsight.models.scorers.sequence_reward import SequenceReward
from pairsight.models.scorers.vlm_judge import VlmJudge
from pairsight.records import ItemError, Message, Prompt
from pairsight.registry import plugins
from scorer_folders import (
    completion,
    pictures,
    prompt,
    save_armorm,
    save_clip,
    save_sequence_reward,
)

torch.set_num_threads(1)
ANSWERS = ["a red circle", "two small blue square and a green circle is left of the photo", "red"]


def test_armorm_equals_its_formula_step_by_step(tmp_path):
    # In double precision: in single precision two orders of the same sums differ by 1e-5 in a score of 6.
    folder = save_armorm(tmp_path / "model")
    scorer = ArmoRM(folder, device="cpu", dtype="float64")
    asked = prompt("<image> what is in this photo")
    rows = scorer.score([(asked, completion(text)) for text in ANSWERS])
    model = ArmoRMModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, row in zip(ANSWERS, rows, strict=True):
        plain = (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nwhat is in this photo<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n{text}<|eot_id|>"
        )
        ids = tokenizer(plain, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = model.model(torch.tensor([ids])).last_hidden_state[0]
            rewards = [(model.regression_layer.weight[k] @ states[-1]).item() for k in range(19)]
            h = states[ids.index(tokenizer.convert_tokens_to_ids("<|eot_id|>"))]
            for layer in model.gating.layers[:-1]:
                h = torch.clamp(layer.weight @ h + layer.bias, min=0)
            last = model.gating.layers[-1]
            gate = ((last.weight @ h + last.bias) / 3.0).softmax(0) * 1.7
            mixed = [
                sum(gate[j].item() * model.reward_transform_matrix[k, j].item() for j in range(19)) for k in range(19)
            ]
        assert row["score"] == pytest.approx(sum(r * m for r, m in zip(rewards, mixed, strict=True)), abs=1e-5)
        for name, expected in zip(OBJECTIVES, rewards, strict=True):
            assert row[name] == pytest.approx(expected, abs=1e-5)
        assert row["correctness"] == pytest.approx(5 * rewards[1] - 0.5, abs=1e-5)
        assert row["verbosity"] == pytest.approx(5 * rewards[4] - 0.5, abs=1e-5)
    assert scorer.columns[0] == "score"
    assert len(scorer.columns) == 1 + 19 + 5


def test_the_gate_is_read_at_the_last_assistant_header():
    header = [1, 2, 3]
    assert gate_position([9, 1, 2, 3, 5, 1, 2, 3, 7], header) == 5
    assert gate_position([9, 1, 2], header) is None
    assert ASSISTANT_HEADER.startswith("<|eot_id|>")


def test_the_gate_of_a_dialogue_is_the_last_turns(tmp_path):
    scorer = ArmoRM(save_armorm(tmp_path / "model"), device="cpu")
    turns = (
        Message("user", "what is this"),
        Message("assistant", "a circle"),
        Message("user", "what is in this photo"),
    )
    ids = scorer.encoded(Prompt("p", turns), completion("red"))["input_ids"]
    assert ids.count(scorer.header[2]) == 2
    text = scorer.tokenizer.decode(ids[gate_position(ids, scorer.header) :])
    assert text.count("assistant") == 1


@pytest.mark.parametrize("template", [True, False])
def test_sequence_reward_equals_the_model_alone(tmp_path, template):
    folder = save_sequence_reward(tmp_path / "model", template=template)
    scorer = SequenceReward(folder, device="cpu")
    rows = scorer.score([(prompt(), completion(text)) for text in ANSWERS])
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, row in zip(ANSWERS, rows, strict=True):
        if template:
            ids = tokenizer(f"user what is in this photo</s>assistant {text}</s>", add_special_tokens=False)
        else:
            ids = tokenizer("what is in this photo", text)
        with torch.no_grad():
            states = model.model(torch.tensor([ids["input_ids"]])).last_hidden_state[0, -1]
            expected = (model.score.weight[0] @ states).item()
        assert row == {"reward": pytest.approx(expected, abs=1e-5)}


def test_several_labels_are_columns_by_their_names(tmp_path):
    scorer = SequenceReward(save_sequence_reward(tmp_path / "model", labels=("help", "truth")), device="cpu")
    (row,) = scorer.score([(prompt(), completion("red"))])
    assert scorer.columns == ("help", "truth")
    assert set(row) == {"help", "truth"}


@pytest.mark.parametrize(("cls", "save"), [(ArmoRM, save_armorm), (SequenceReward, save_sequence_reward)])
def test_one_bad_completion_is_its_own_error(tmp_path, cls, save):
    scorer = cls(save(tmp_path / "model"), device="cpu")
    special = scorer.tokenizer.eos_token
    texts = ["red", "red " * 99, f"red {special} blue", "blue"]
    first, long, hostile, last = scorer.score([(prompt(), completion(text)) for text in texts])
    assert long.reason == "too_long"
    assert "at most" in long.detail
    assert hostile.reason == "control_token"
    assert special in hostile.detail
    alone = scorer.score([(prompt(), completion("blue"))])[0]
    column = scorer.columns[0]
    assert last[column] == pytest.approx(alone[column], abs=1e-5)
    assert first[column] != last[column]


def test_image_aware_is_the_mean_over_sentences(tmp_path):
    images, refs = pictures(tmp_path / "images")
    clip = ClipScore(save_clip(tmp_path / "model"), images, device="cpu")
    scorer = ImageAware(clip)
    asked = prompt(images=(refs[0],))
    (row,) = scorer.score([(asked, completion("a red circle. two small square\nthe photo"))])
    parts = clip.score([(text, refs[0]) for text in ("a red circle.", "two small square", "the photo")])
    assert row == {"clip": pytest.approx(sum(part["clip"] for part in parts) / 3, abs=1e-6)}
    assert sentences_of(" One.  Two!\n\n<image> three ") == ["One.", "Two!", "three"]


def test_image_aware_without_an_image_or_text_is_an_error(tmp_path):
    images, refs = pictures(tmp_path / "images")
    scorer = ImageAware(ClipScore(save_clip(tmp_path / "model"), images, device="cpu"))
    items = [
        (prompt(), completion("red")),
        (prompt(images=(refs[0],)), completion(" ")),
        (prompt(images=(refs[1],)), completion("red")),
    ]
    first, second, third = scorer.score(items)
    assert isinstance(first, ItemError)
    assert first.reason == "no_image"
    assert second.reason == "empty"
    assert set(third) == {"clip"}
    assert scorer.score(items[:1])[0].reason == "no_image"


def test_other_models_are_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match="tensors of ArmoRMModel are missing"):
        ArmoRM(save_sequence_reward(tmp_path / "reward"), device="cpu")
    with pytest.raises(ModelError, match="of type 'clip'"):
        ArmoRM(save_clip(tmp_path / "clip"), device="cpu")
    with pytest.raises(ModelError, match="tensors of AutoModelForSequenceClassification are missing"):
        SequenceReward(save_armorm(tmp_path / "armorm"), device="cpu")
    armorm = save_armorm(tmp_path / "no_template")
    (armorm / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        ArmoRM(armorm, device="cpu")


def test_scorers_are_named_by_kind_and_reference(tmp_path):
    images, refs = pictures(tmp_path / "images")
    clip = save_clip(tmp_path / "clip")
    (row,) = load_image_scorer(f"clip:{clip}", images, "cpu").score([("red", refs[0])])
    scorer = load_completion_scorer(f"clip:{clip}", images, "cpu")
    assert scorer.score([(prompt(images=(refs[0],)), completion("red"))]) == [row]
    reward = load_completion_scorer(f"sequence:{save_sequence_reward(tmp_path / 'reward')}", images, "cpu")
    assert reward.columns == ("reward",)


BREVITY = """
from pairsight.models.scorers.base import Scorer


class Brevity(Scorer):
    fingerprint = "brevity"
    columns = ("brevity",)

    def __init__(self, model_name, device=None):
        pass

    def score(self, items):
        return [{"brevity": -len(completion.text)} for _, completion in items]
"""


def test_a_scorer_from_a_file_is_called_by_its_class(tmp_path):
    images, _ = pictures(tmp_path / "images")
    file = tmp_path / "own.py"
    file.write_text(BREVITY)
    name = f"{file}:Brevity:v1"
    with pytest.raises(ConfigError, match=f"add --plugin {file}"):
        parse_scorer(name)
    with plugins({"completion_scorers": [name]}):
        found, model_name = parse_scorer(name)
        (row,) = load_completion_scorer(name, images, "cpu").score([(prompt(), completion("red"))])
        with pytest.raises(ConfigError, match="must be KIND:MODEL"):
            parse_scorer(f"{file}:Brevity")
    assert (found.__name__, model_name, row, scorer_kind(name)) == ("Brevity", "v1", {"brevity": -3}, "Brevity")
    assert scorer_kind("clip:owner/name") == scorer_kind("clip:a.py:b") == "clip"


def test_a_wrong_scorer_is_said_before_anything_loads(tmp_path):
    images, _ = pictures(tmp_path / "images")
    with pytest.raises(ConfigError, match="must be KIND:MODEL; kinds: armorm, blip_cosine"):
        parse_scorer("clip")
    with pytest.raises(ConfigError, match="unknown scorer 'armor'; did you mean 'armorm'"):
        parse_scorer("armor:x/y")
    with pytest.raises(ModelError, match="there is no model folder"):
        parse_scorer(f"clip:{tmp_path / 'nowhere'}")
    with pytest.raises(ModelError, match=r"holds no \*.safetensors"):
        parse_scorer(f"clip:{tmp_path / 'images'}")
    with pytest.raises(ConfigError, match="reads text only"):
        load_image_scorer(f"sequence:{save_sequence_reward(tmp_path / 'reward')}", images, "cpu")


class Annotating(Generator):
    """A model that rates by the completion's number of words, and says nothing sensible of the word "odd"."""

    fingerprint = "annotating"

    def generate(self, requests, sampling):
        texts = [request.prompt.question for request in requests]
        return [completion("hm" if "odd" in text else self.ratings(min(4, text.count("red")))) for text in texts]

    @staticmethod
    def ratings(score):
        names = ("Helpfulness", "Correctness", "Coherence", "Complexity", "Verbosity")
        return "Answer 1:\n" + "\n".join(f"{name}: {score}" for name in names)


def test_a_vlm_judges_each_completion_alone(tmp_path):
    images, refs = pictures(tmp_path / "images")
    judge = VlmJudge("unused", images, generator=Annotating())
    asked = prompt(images=(refs[0],))
    first, odd, second = judge.score([(asked, completion(text)) for text in ("red", "odd", "red red red")])
    assert first == {"total": 3, **dict.fromkeys(judge.columns[1:], 1)}
    assert second["total"] == 9
    assert isinstance(odd, ItemError)
    assert judge.fingerprint.startswith("annotator:")
