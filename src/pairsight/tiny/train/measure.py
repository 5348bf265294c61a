"""Measure a tiny model on a part of the world, straight from the rendered scenes: what the model cards report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pairsight.tiny.models.architecture import NUM_PATCHES
from pairsight.tiny.train.scoring import metrics, question_sums
from pairsight.tiny.world.noise import pixels
from pairsight.tiny.world.questions import Question, benchmark_questions
from pairsight.tiny.world.scenes import Part, Scene, scenes, stream
from pairsight.tiny.world.text_tasks import TASKS, text_question
from pairsight.tiny.world.vocabulary import IMAGE

_BATCH = 250
_MAX_NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the scene it is about; text-only questions have none."""

    question: Question
    scene: Scene | None


def benchmark_set(part: Part, num_scenes: int, num_text: int, seed: int = 0) -> list[Asked]:
    """What a benchmark asks: about eight questions a scene, and text-only questions of all tasks in turn."""
    asked = [
        Asked(question, scene)
        for index, scene in enumerate(scenes(part, num_scenes, seed))
        for question in benchmark_questions(scene, stream(part, seed, index, 5))
    ]
    tasks = list(TASKS)
    texts = [text_question(tasks[i % len(tasks)], stream(part, seed, i, 6)) for i in range(num_text)]
    return asked + [Asked(question, None) for question in texts]


def complete(
    model: Any, processor: Any, asked: Sequence[Asked], noise_step: int | None = None, temperature: float = 0.0
) -> list[str]:
    """One completion per question, in order.

    Args:
        model: the complete model, or the language backbone when no question has a scene.
        processor: its processor.
        asked: the questions.
        noise_step: diffusion noise on the normalised pixels, 0–999, seeded by the question's index; None is clean.
        temperature: 0 is greedy; else seed torch first.
    """
    texts = [""] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: (asked[i].scene is None, asked[i].question.kind))
    groups: list[list[int]] = []
    for i in order:
        alike = groups and (asked[groups[-1][0]].scene is None) == (asked[i].scene is None)
        if alike and len(groups[-1]) < _BATCH:
            groups[-1].append(i)
        else:
            groups.append([i])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for group in groups:
        inputs = _inputs(processor, [asked[i] for i in group], group, noise_step)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=_MAX_NEW_TOKENS, **sampling)
        made = processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(group, made, strict=True):
            texts[i] = text
    return texts


def measure(asked: Sequence[Asked], texts: Sequence[str]) -> dict[str, float]:
    """All metrics of the completions `texts` to the questions `asked`; those of kinds not asked are left out."""
    sums = [
        question_sums(
            a.question.kind, a.question.category, a.question.answer, a.scene.kinds if a.scene else frozenset(), text
        )
        for a, text in zip(asked, texts, strict=True)
    ]
    found = metrics(np.array(sums).sum(axis=0, keepdims=True))
    return {name: float(values[0]) for name, values in found.items() if not np.isnan(values[0])}


def _inputs(processor: Any, asked: Sequence[Asked], seeds: Sequence[int], noise_step: int | None) -> dict[str, Any]:
    prompts = []
    for a in asked:
        mark = [{"type": "image"}] if a.scene else []
        message = {"role": "user", "content": [*mark, {"type": "text", "text": a.question.text}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        prompts.append(text.replace(IMAGE, IMAGE * NUM_PATCHES))
    inputs = dict(processor.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left"))
    inputs.pop("token_type_ids", None)
    pictures = [
        pixels(a.scene, noise_step, np.random.default_rng([seed, noise_step or 0]))
        for a, seed in zip(asked, seeds, strict=True)
        if a.scene
    ]
    if pictures:
        inputs["pixel_values"] = torch.from_numpy(np.stack(pictures))
    return inputs
