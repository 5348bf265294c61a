"""The policy as `align` makes it, on its fused and packed path, against plain transformers and peft.

The expectation is computed from one padded sequence at a time, with nothing of ours but the loading of processors.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

import families
from pairsight.images.source import FileImages
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.records import Completion, Message, PreferencePair, Prompt
from pairsight.training.kernels.layers import shortens_last_layer
from pairsight.training.trainer import PreferenceTrainer

DIALOGUES = (
    [("user", "<0>What is it?")],
    [("user", "<0>What is here then?")],
    [("user", "Compare <1> and <0>")],
    [("user", "Just text?")],
    [("user", "Just text?"), ("assistant", "Yes."), ("user", "Sure?")],
)
"""Turns of role and text; <n> is image n."""
ANSWERS = ("yes, a dog", "yes, a cat indeed", "no")
PROJECTORS = {
    "qwen2_vl": ["visual.merger"],
    "qwen2_5_vl": ["visual.merger"],
    "qwen3_vl": ["visual.merger", "visual.deepstack_merger_list.0", "visual.deepstack_merger_list.1"],
    "idefics3": ["connector"],
    "smolvlm": ["connector"],
    "llama": [],
}
"""What stands between tower and language model; "multi_modal_projector" in all other families."""
LINEAR = r"(?!.*(vision|visual)).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class Outcome:
    """Log-probs of all completion tokens, sequence by sequence, and gradients by parameter."""

    logps_T: torch.Tensor
    gradients: dict[str, torch.Tensor]


def weights_of(counts: list[int]) -> list[float]:
    """As a preference loss weighs log-probs: each chosen completion's for, its rejected ones' against."""
    return [
        (1 + number / 4) * (1.0 if index == 0 else -1.0 / (count - 1))
        for number, count in enumerate(counts)
        for index in range(count)
    ]


def trained(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.float() for name, p in trained(model).items()}


class Draws:
    """Sets a model's weights by number, the same in every model of a family; gradients are dropped.

    Adapters get values that do something; the language model's weights are permuted in their tensors. Tower and
    projector stay, because what the tower gave is kept.
    """

    def __init__(self, model: Any, *, autocast: bool = False) -> None:
        self.model, self.autocast = model, autocast
        self.start = {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim > 1}

    def set(self, draw: int) -> None:
        self.model.zero_grad(set_to_none=True)
        for name, parameter in self.model.named_parameters():
            generator = torch.Generator().manual_seed(1000 * draw + sum(name.encode()))
            if "lora_" in name:
                scale = 0.3 if "lora_A" in name else 0.1
                parameter.data = scale * torch.randn(parameter.shape, generator=generator)
            elif name in self.start and not re.search("vision|visual|projector|connector", name):
                indices = torch.randperm(parameter.numel(), generator=generator)
                parameter.data = self.start[name].flatten()[indices].view(parameter.shape)


class Plain:
    """Plain transformers and peft, one padded sequence at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.processor = load_processor(folder / "model")
        self.images = [Image.open(folder / "images" / f"{n}.png").convert("RGB") for n in range(3)]
        self.sequences, counts = [], []
        for number, dialogue in enumerate(DIALOGUES):
            if takes(name, dialogue):
                inputs = self.inputs(dialogue)
                self.sequences += [self.with_answer(inputs, answer) for answer in ANSWERS[number % 2 :]]
                counts.append(len(ANSWERS[number % 2 :]))
        self.weights = weights_of(counts)

    def inputs(self, dialogue: list[tuple[str, str]]) -> dict[str, Any]:
        if self.name == "llama":
            turns = [{"role": role, "content": text} for role, text in dialogue]
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return dict(self.processor(text, add_special_tokens=False, return_tensors="pt"))
        turns, pictures = [], []
        for role, text in dialogue:
            parts = [piece for piece in re.split(r"(<\d>)", text) if piece]
            pictures += [self.images[int(piece[1])] for piece in parts if piece[0] == "<"]
            content = [{"type": "image"} if p[0] == "<" else {"type": "text", "text": p} for p in parts]
            turns.append({"role": role, "content": content})
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return dict(self.processor(text=[text], images=pictures or None, return_tensors="pt"))

    def with_answer(self, inputs: dict[str, Any], answer: str) -> tuple[dict[str, Any], int, torch.Tensor]:
        """A padded sequence, the prompt's length, and the completion's tokens."""
        words = families.processor_tokenizer(self.processor)
        completion = torch.tensor([*words(answer, add_special_tokens=False).input_ids, words.eos_token_id])
        length = inputs["input_ids"].shape[1]
        padding = torch.full((5,), words.pad_token_id)
        made = {name: value for name, value in inputs.items() if name != "labels"}
        made["input_ids"] = torch.cat([inputs["input_ids"][0], completion, padding])[None]
        made["attention_mask"] = torch.tensor([[1] * (length + len(completion)) + [0] * len(padding)])
        for kind in ("token_type_ids", "mm_token_type_ids"):
            if kind in made:
                later = 1 if self.name == "paligemma" else 0  # PaliGemma's suffixes are 1, all other text is 0
                tail = torch.full((1, len(completion) + len(padding)), later)
                made[kind] = torch.cat([inputs[kind], tail], dim=1)
        return made, length, completion

    def policy(self, tuning: str, *, bf16: bool, **quantised: Any) -> Draws:
        auto = AutoModelForCausalLM if self.name == "llama" else AutoModelForImageTextToText
        dtype = torch.bfloat16 if bf16 and tuning == "lora" else torch.float32
        model = auto.from_pretrained(self.folder / "model", dtype=dtype, **quantised).requires_grad_(False)
        projectors = PROJECTORS.get(self.name, ["multi_modal_projector"])
        if tuning == "lora":
            settings = LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, modules_to_save=projectors or None)
            model = get_peft_model(model, settings)
        for name, parameter in model.named_parameters() if tuning == "full" else ():
            parameter.requires_grad_(not re.search("vision|visual", name) or any(p in name for p in projectors))
        return Draws(model.train(), autocast=bf16)

    def outcome(self, policy: Draws, draw: int) -> Outcome:
        policy.set(draw)
        model, dtype, found = policy.model, policy.model.dtype, []
        for weight, (inputs, length, completion) in zip(self.weights, self.sequences, strict=True):
            given = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=policy.autocast):
                logits = model(**given, use_cache=False).logits[0, length - 1 : length - 1 + len(completion)]
            logps = logits.float().log_softmax(-1).gather(1, completion[:, None])[:, 0]
            (weight * logps.sum()).backward()
            found.append(logps.detach())
        return Outcome(torch.cat(found), gradients_of(model))


class CapturedError(Exception):
    """What a training would begin with: the policy, and how it is scored."""


class Ours:
    """The policy and scorer with which `align` enters its loop."""

    def __init__(self, name: str, folder: Path, out: Path, **options: Any) -> None:
        images = FileImages(folder / "images")
        pairs = [pair(n, images, dialogue) for n, dialogue in enumerate(DIALOGUES) if takes(name, dialogue)]
        adapters = {} if options.get("tuning") == "full" else {"lora_r": 4, "lora_alpha": 8.0}
        trainer = PreferenceTrainer(folder / "model", "simpo", out=out, images=images, **adapters, **options)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(CapturedError) as caught:
            patch.setattr(trainer, "_run_loop", self.capture)
            trainer.train(pairs)
        self.policy, step, _ = caught.value.args
        self.scorer, self.draws = step.scorer, Draws(self.policy)

    def capture(self, *arguments: Any) -> None:
        raise CapturedError(*arguments)

    def outcome(self, draw: int) -> Outcome:
        self.draws.set(draw)
        self.policy.train()
        examples = self.scorer.examples
        counts = [len(example.sequences) for example in examples]
        first, weights = np.cumsum([0, *counts]), weights_of(counts)
        found: dict[int, torch.Tensor] = {}
        for rows in self.scorer.passes(range(len(examples))):
            scores = self.scorer.score(self.scorer.packed(self.policy), rows)
            numbers = [int(first[n]) + i for n in scores.examples for i in range(len(examples[n].sequences))]
            (scores.sums_Q * torch.tensor([weights[n] for n in numbers])).sum().backward()
            for index, number in enumerate(numbers):
                found[number] = scores.token_logps_T[scores.sequence_T == index].detach()
        return Outcome(torch.cat([found[number] for number in sorted(found)]), gradients_of(self.policy))


def pair(number: int, images: FileImages, dialogue: list[tuple[str, str]]) -> PreferencePair:
    messages = tuple(
        Message(
            role,
            re.sub(r"<\d>", "<image>", text),
            tuple(images.ref(f"{n}.png") for n in re.findall(r"<(\d)>", text)),
        )
        for role, text in dialogue
    )
    prompt = Prompt(str(number), messages)
    chosen, *rejected = (Completion("c", prompt.id, text, "stop", "m", 0, 0) for text in ANSWERS[number % 2 :])
    return PreferencePair(str(number), prompt, chosen, tuple(rejected), "test")


def takes(name: str, dialogue: list[tuple[str, str]]) -> bool:
    sees = any("<" in text for _, text in dialogue)
    return sees != (name == "llama") if name in ("llama", "paligemma") else True


def write_model(name: str, folder: Path) -> None:
    """A family's tiny model, its weights such that bfloat16 holds them exactly, and three images."""
    families.build(name, folder / "built")
    model = load_model(folder / "built", dtype="bfloat16", device="cpu").float()
    model.save_pretrained(folder / "model")
    load_processor(folder / "built").save_pretrained(folder / "model")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0)
    for number, size in enumerate([(28, 28), (40, 28), (28, 60)]):
        picture = Image.fromarray(pixels.integers(0, 255, (*size, 3), dtype=np.uint8))
        picture.save(folder / "images" / f"{number}.png")


WAYS = tuple(product((False, True), (False, True)))
"""Projector trained; activations computed twice."""


def ours(name: str, tmp_path: Path, projector: bool, checkpointing: bool, **options: Any) -> Ours:
    rate = 1e-5 if projector else None
    policy = Ours(
        name,
        tmp_path,
        tmp_path / f"out-{projector}-{checkpointing}",
        projector_learning_rate=rate,
        gradient_checkpointing=checkpointing,
        **options,
    )
    assert policy.policy.is_gradient_checkpointing == checkpointing
    return policy


def ways(name: str) -> list[tuple[bool, bool]]:
    return [(projector, twice) for projector, twice in WAYS if not projector or PROJECTORS.get(name, True)]


def significant(truth: Outcome) -> set[str]:
    """Parameters whose gradient is more than rounding around an exact zero, as a key's bias has it."""
    largest = {name: float(gradient.abs().max()) for name, gradient in truth.gradients.items()}
    return {name for name, value in largest.items() if value > 1e-6 * max(largest.values())}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_in_fp32_the_policy_is_plain_peft(name: str, tmp_path: Path):
    torch.set_num_threads(1)
    write_model(name, tmp_path)
    plain = Plain(name, tmp_path)
    truth = plain.outcome(plain.policy("lora", bf16=False), 0)
    counted = significant(truth)
    for projector, checkpointing in ways(name):
        policy = ours(name, tmp_path, projector, checkpointing)
        assert shortens_last_layer(policy.policy)
        assert_equal(policy.outcome(0), truth, projector, counted)


def assert_equal(got: Outcome, truth: Outcome, projector: bool, counted: set[str]) -> None:
    torch.testing.assert_close(got.logps_T, truth.logps_T, atol=2e-5, rtol=1e-5)
    assert got.gradients.keys() == {n for n in truth.gradients if projector or "lora_" in n}
    assert len(got.gradients.keys() & counted) >= 4
    for parameter in got.gradients.keys() & counted:
        exact = truth.gradients[parameter]
        difference = float((got.gradients[parameter] - exact).abs().max())
        assert difference <= 1e-4 * float(exact.abs().max()), parameter


@pytest.mark.long
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "llama"])
def test_above_4_bits_the_policy_is_plain_peft_on_bitsandbytes(name: str, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    torch.set_num_threads(1)
    write_model(name, tmp_path)
    plain = Plain(name, tmp_path)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", r".*\.(vision_tower|visual|multi_modal_projector)"],
    )
    truth = plain.outcome(plain.policy("lora", bf16=False, quantization_config=nf4), 0)
    for projector, checkpointing in ways(name):
        policy = ours(name, tmp_path, projector, checkpointing, load_in_4bit=True)
        assert_equal(policy.outcome(0), truth, projector, significant(truth))


FAST = ("qwen2_5_vl",)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.long) for n in families.FAMILIES]
)
def test_in_bf16_the_policy_is_as_close_to_fp32_as_plain_training_under_autocast(
    name: str, tuning: str, tmp_path: Path
):
    """Rounding is a draw: its size is compared over draws of weights, by the mean of log ratios."""
    torch.set_num_threads(1)
    write_model(name, tmp_path)
    plain = Plain(name, tmp_path)
    exact, rounded = plain.policy(tuning, bf16=False), plain.policy(tuning, bf16=True)
    taken = ways(name) if tuning == "lora" else ways(name)[-1:]
    policies = [ours(name, tmp_path, *way, tuning=tuning, bf16=True) for way in taken]
    ratios: dict[str, list[float]] = defaultdict(list)
    for draw in range(8 if tuning == "lora" else 3):  # the same roundings in most of them, and so fewer draws
        got = policies[-1 - draw % len(policies)].outcome(draw)
        truth, theirs = plain.outcome(exact, draw), plain.outcome(rounded, draw)
        ratios["log-probs"].append(log_ratio(got.logps_T, theirs.logps_T, truth.logps_T))
        for parameter in got.gradients.keys() & significant(truth):
            distances = (outcome.gradients[parameter] for outcome in (got, theirs, truth))
            ratios["gradients"].append(log_ratio(*distances))
    means = {part: float(np.exp(np.mean(found))) for part, found in ratios.items()}
    print(name, {part: round(mean, 2) for part, mean in means.items()})
    assert max(means.values()) <= 1.2, means


def log_ratio(got: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((got - truth).norm() / (theirs - truth).norm()).log())
