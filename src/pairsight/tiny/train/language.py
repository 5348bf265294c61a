"""Stages 2 and 3: the language model learns text tasks and scenes told in words, then pictures (instruction tuning)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairsight.tiny.models.architecture import NUM_PATCHES
from pairsight.tiny.train.labeller import USUAL, Habits, believe, written_answer
from pairsight.tiny.train.packing import PackedBatch, PrefixGroup, pack, packed_loss
from pairsight.tiny.train.resumable import Log, Stepper
from pairsight.tiny.world.noise import pixels
from pairsight.tiny.world.questions import (
    NEGATIVES,
    SHORT_ANSWER_SUFFIX,
    Question,
    caption,
    colour,
    content,
    content_of,
    count,
    existence,
    place_of,
)
from pairsight.tiny.world.scenes import Scene, scenes, stream
from pairsight.tiny.world.text_tasks import TASKS, text_question
from pairsight.tiny.world.vocabulary import ASSISTANT, BOS, EOS, IMAGE, PAD, USER

_SUFFIXED = 0.35
_TEXT_ROWS, _SCENES_TOLD = 7, 14  # rows of a language step


@dataclass(frozen=True, slots=True)
class InstructionRecipe:
    """The numbers of instruction tuning (see tiny's model card for what they led to)."""

    steps: int = 1000
    images: int = 16
    noised: float = 0.35
    max_noise_step: int = 999
    replay: float = 0.008
    language_rate: float = 1e-3
    projector_rate: float = 2e-3
    vision_rate: float = 2e-4
    habits: Habits = USUAL


class Encoder:
    """Questions and completions as token ids, as the chat template lays them out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.pad_id: int = tokenizer.convert_tokens_to_ids(PAD)
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE)
        self._assistant = self._encode(ASSISTANT)
        self._end = self._encode(EOS)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def prefix(self, told: str = "", image: bool = False) -> tuple[int, ...]:
        """The row's start: the user's mark, then an image's tokens or a told scene."""
        return self._encode(BOS + USER + IMAGE * (NUM_PATCHES * image) + told)

    def branch(self, question: str, completion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A question with the assistant's mark, and the completion with the end mark."""
        return self._encode(question) + self._assistant, self._encode(completion) + self._end


def train_language(model: Any, tokenizer: Any, seed: int, steps: int, log: Log) -> None:
    """Train the language model in place, without images, at peak rate 2.5e-3.

    Args:
        model: a `LlavaForConditionalGeneration`; only its language model and head change.
        tokenizer: the tiny tokenizer.
        seed: of scenes and tasks.
        steps: optimiser steps of about 180 questions, 98 of them text tasks.
        log: called with progress lines.
    """
    encoder = Encoder(tokenizer)
    body, head = model.model.language_model, model.lm_head
    stepper = Stepper([{"params": [*body.parameters(), *head.parameters()], "lr": 2.5e-3}], steps)
    for step in range(steps):
        rng = stream("train", seed, step, 3)
        told = scenes("train", _SCENES_TOLD, seed, start=step * _SCENES_TOLD)
        losses = []
        for rows in (text_rows(encoder, rng, _TEXT_ROWS), [_told_row(encoder, scene, rng) for scene in told]):
            batch = pack(rows, encoder.pad_id)
            losses.append(packed_loss((body, head), batch, body.embed_tokens(batch.input_ids)))
        loss = torch.stack(losses).mean()
        stepper.step(loss)
        if step % 50 == 0 or step == steps - 1:
            log(f"language {step}/{steps} loss {loss.item():.3f}")


def train_instruction(model: Any, tokenizer: Any, seed: int, recipe: InstructionRecipe, log: Log) -> None:
    """Visual instruction tuning in place, on the imperfect writer's completions.

    Args:
        model: the model after the first two stages.
        tokenizer: the tiny tokenizer.
        seed: of scenes, noise and questions.
        recipe: steps, shares and rates.
        log: called with progress lines.
    """
    encoder = Encoder(tokenizer)
    body, head = model.model.language_model, model.lm_head
    groups = [
        {"params": [*body.parameters(), *head.parameters()], "lr": recipe.language_rate},
        {"params": [*model.model.multi_modal_projector.parameters()], "lr": recipe.projector_rate},
        {"params": [*model.model.vision_tower.parameters()], "lr": recipe.vision_rate},
    ]
    stepper = Stepper(groups, recipe.steps)
    for step in range(recipe.steps):
        rng = stream("train", seed, step, 4)
        if rng.random() < recipe.replay:
            batch = pack(text_rows(encoder, rng, _TEXT_ROWS), encoder.pad_id)
            embeddings = body.embed_tokens(batch.input_ids)
        else:
            seen = scenes("train", recipe.images, seed, start=step * recipe.images)
            batch, images = _instruction_batch(encoder, seen, recipe, rng)
            embeddings = embed(model, batch, images, encoder.image_id)
        loss = packed_loss((body, head), batch, embeddings)
        stepper.step(loss)
        if step % 50 == 0 or step == recipe.steps - 1:
            log(f"instruction {step}/{recipe.steps} loss {loss.item():.3f}")


def embed(model: Any, batch: PackedBatch, images: Tensor, image_id: int) -> Tensor:
    """Token embeddings with each row's image features (default layer, no class token) on its image tokens."""
    features = model.model.vision_tower(pixel_values=images).last_hidden_state[:, 1:]
    projected = model.model.multi_modal_projector(features)
    embeddings = model.model.language_model.embed_tokens(batch.input_ids)
    positions = (batch.input_ids == image_id)[..., None].expand_as(embeddings)
    filled: Tensor = embeddings.masked_scatter(positions, projected.to(embeddings.dtype))
    return filled


def text_rows(encoder: Encoder, rng: np.random.Generator, n: int) -> list[PrefixGroup]:
    """`n` rows of text-only questions, each with all seven tasks twice."""
    rows = []
    for _ in range(n):
        asked = [text_question(task, rng) for task in TASKS for _ in range(2)]
        rows.append(PrefixGroup(encoder.prefix(), tuple(encoder.branch(q.text, q.answer) for q in asked)))
    return rows


def _told_row(encoder: Encoder, scene: Scene, rng: np.random.Generator) -> PrefixGroup:
    told = "Scene: " + ", ".join(f"{thing.name} {thing.place}" for thing in scene.things) + ". "
    asked = general_questions(scene, rng)
    return PrefixGroup(encoder.prefix(told), tuple(encoder.branch(q.text, q.answer) for q in asked))


def general_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Questions about the entire scene: a caption, three of existence, two of count."""
    category = NEGATIVES[int(rng.integers(len(NEGATIVES)))]
    asked = [
        caption(scene, rng),
        existence(scene, "random", True, rng),
        existence(scene, "adversarial", False, rng),
        existence(scene, category, bool(rng.random() < 0.5), rng),
        count(scene, rng),
        count(scene, rng),
    ]
    return [_with_suffix(question, rng) for question in asked]


def particular_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Questions about single objects and cells: a colour, a cell, each object's place and each object's cell."""
    asked = [colour(scene, rng), content(scene, rng)]
    asked += [place_of(thing) for thing in scene.things]
    asked += [content_of(thing.cell, thing) for thing in scene.things]
    return [_with_suffix(question, rng) for question in asked if question is not None]


def _with_suffix(question: Question, rng: np.random.Generator) -> Question:
    """One short question in three carries the instruction that LLaVA-1.5's benchmarks append."""
    if question.kind == "caption" or rng.random() > _SUFFIXED:
        return question
    return replace(question, text=question.text + SHORT_ANSWER_SUFFIX)


def _instruction_batch(
    encoder: Encoder, seen: Sequence[Scene], recipe: InstructionRecipe, rng: np.random.Generator
) -> tuple[PackedBatch, Tensor]:
    rows, images = [], []
    for scene in seen:
        noise_step = int(rng.integers(recipe.max_noise_step)) if rng.random() < recipe.noised else None
        belief = believe(scene, noise_step, rng, recipe.habits)
        asked = general_questions(scene, rng) + particular_questions(scene, rng)
        answers = [(q.text, written_answer(q, scene, belief)) for q in asked]
        branches = tuple(encoder.branch(text, answer) for text, answer in answers if answer is not None)
        rows.append(PrefixGroup(encoder.prefix(image=True), branches))
        images.append(pixels(scene, noise_step, rng))
    return pack(rows, encoder.pad_id), torch.from_numpy(np.stack(images))
