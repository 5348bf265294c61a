"""The policy as `align` makes it, on its fused and packed path, against plain transformers and peft.

The expectation is computed from one padded sequence at a time, with nothing of ours but the loading of processors.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import families
from pairsight.errors import DataError
from pairsight.images.files import FileImages
from pairsight.models.load import load_model
from pairsight.models.processor import load_processor
from pairsight.records import Completion, Message, Prompt
from pairsight.training.config import TrainingConfig
from pairsight.training.families import describe
from pairsight.training.fused_lora import fuse_lora
from pairsight.training.logps import Scoring
from pairsight.training.plain_layers import use_plain_layers
from pairsight.training.policy import make_policy
from pairsight.training.scorer import SequenceScorer, pass_limits
from pairsight.training.tokenise import Tokeniser
from pairsight.training.tokens import token_example
from pairsight.training.tree_attention import use_tree_attention

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
    "qwen3_vl": ["visual.merger", "visual.deepstack_merger_list.0"],
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


def weights_of(num_sequences: int) -> list[float]:
    return torch.linspace(-1, 1, num_sequences).tolist()


def trained(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def set_trained(model: Any) -> None:
    """The same values in every model: adapters that do something; what is trained whole as it was."""
    for name, parameter in sorted(trained(model).items()):
        if "lora_" in name:
            number = sum(name.encode())
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.data = values * (0.3 if "lora_A" in name else 0.1)
        parameter.data = parameter.data.float()


class Plain:
    """Plain transformers and peft, one padded sequence at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.processor = load_processor(folder / "model")
        self.images = [Image.open(folder / "images" / f"{n}.png").convert("RGB") for n in range(3)]
        self.sequences = []
        for number, dialogue in enumerate(DIALOGUES):
            if takes(name, dialogue):
                inputs = self.inputs(dialogue)
                self.sequences += [self.with_answer(inputs, answer) for answer in ANSWERS[number % 2 :]]

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

    def model(self, dtype: torch.dtype) -> Any:
        auto = AutoModelForCausalLM if self.name == "llama" else AutoModelForImageTextToText
        base = auto.from_pretrained(self.folder / "model", dtype=dtype).requires_grad_(False)
        projectors = PROJECTORS.get(self.name, ["multi_modal_projector"])
        settings = LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, modules_to_save=projectors or None)
        model = get_peft_model(base, settings)
        set_trained(model)
        return model.train()

    def outcome(self, dtype: torch.dtype) -> Outcome:
        model, found = self.model(dtype), []
        for weight, (inputs, length, completion) in zip(weights_of(len(self.sequences)), self.sequences, strict=True):
            given = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = model(**given, use_cache=False).logits[0, length - 1 : length - 1 + len(completion)]
            logps = logits.float().log_softmax(-1).gather(1, completion[:, None])[:, 0]
            (weight * logps.sum()).backward()
            found.append(logps.detach())
        return Outcome(torch.cat(found), {n: p.grad.float() for n, p in trained(model).items()})


class Ours:
    """What `align` does."""

    def __init__(self, name: str, folder: Path, config: TrainingConfig, dtype: torch.dtype) -> None:
        model = load_model(folder / "model", dtype=dtype, device="cpu")
        use_tree_attention(model)
        use_plain_layers(model)
        images = FileImages(folder / "images")
        family = describe(model)
        tokeniser = Tokeniser(load_processor(folder / "model"), model, family, images, 64)
        examples = []
        for number, dialogue in enumerate(DIALOGUES):
            if not takes(name, dialogue):
                continue
            messages = []
            for role, text in dialogue:
                shown = tuple(images.ref(f"{n}.png") for n in re.findall(r"<(\d)>", text))
                messages.append(Message(role, re.sub(r"<\d>", "<image>", text), shown))
            tokens = tokeniser.prompt(Prompt(str(number), tuple(messages)))
            answers = [Completion("c", "p", text, "stop", "m", 0, 0) for text in ANSWERS[number % 2 :]]
            examples.append(token_example(str(number), [tokens], [tokeniser.completion(a) for a in answers], 1.0))
        self.policy = make_policy(model, config)
        assert fuse_lora(self.policy) > 0
        set_trained(self.policy)
        opened = config.projector_learning_rate is not None
        scoring = Scoring(family, tokeniser, not opened)
        self.scorer = SequenceScorer(examples, scoring, pass_limits(model, None), shares=True)

    def outcome(self) -> Outcome:
        examples = self.scorer.examples
        weights = weights_of(sum(len(e.sequences) for e in examples))
        first = np.cumsum([0, *(len(e.sequences) for e in examples)])
        found: dict[int, torch.Tensor] = {}
        self.policy.train()
        for rows in self.scorer.passes(range(len(examples))):
            scores = self.scorer.score(self.policy, rows)
            numbers = [int(first[n]) + i for n in scores.examples for i in range(len(examples[n].sequences))]
            (scores.sums_Q * torch.tensor([weights[n] for n in numbers])).sum().backward()
            for place, number in enumerate(numbers):
                found[number] = scores.token_logps_T[scores.sequence_T == place].detach()
        logps_T = torch.cat([found[number] for number in sorted(found)])
        return Outcome(logps_T, {n: p.grad.float() for n, p in trained(self.policy).items()})


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
