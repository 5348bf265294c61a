"""Packed log-probs and gradients equal the one-sequence-at-a-time computation, in every family."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import flex_attention as torch_flex

import families
from backward_graph import operations_behind
from pairsight.errors import DataError
from pairsight.images.source import FileImages
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.records import Completion, ImageRef, Message, Prompt
from pairsight.training.batch import PackedBatch, collate, join, pack_row
from pairsight.training.data.table import TableWriter, TokenTable
from pairsight.training.examples import Tokeniser
from pairsight.training.families import describe, language_model
from pairsight.training.kernels import attention
from pairsight.training.kernels.attention import use_tree_attention
from pairsight.training.kernels.layers import use_plain_layers
from pairsight.training.kernels.varlen_attention import VarlenKernel
from pairsight.training.scorer import Scoring, packed_token_logps, separate_logps, sequence_logps
from pairsight.training.tokens import TokenExample, token_example

TEXTS = ("yes, a dog", "yes, a cat indeed", "no", "yes", "a dog, yes")


def prompts(images: list[ImageRef]) -> list[Prompt]:
    """Text only; two questions on one image; several images, some shared; dialogues that share their turns."""
    first, second, third = images
    return [
        Prompt("text", (Message("user", "Just text?"),)),
        Prompt("text, too", (Message("user", "Just text, please?"),)),
        Prompt("image", (Message("user", "What is it?", (first,)),)),
        Prompt("same image", (Message("user", "What is here then?", (first,)),)),
        Prompt("two images", (Message("user", "Compare <image> and <image>", (first, second)),)),
        Prompt("first shared", (Message("user", "Compare <image> and <image>", (first, third)),)),
        Prompt(
            "dialogue",
            (Message("user", "What is it?", (first,)), Message("assistant", "A dog."), Message("user", "Sure?")),
        ),
        Prompt(
            "later image",
            (
                Message("user", "What is it?", (first,)),
                Message("assistant", "A dog."),
                Message("user", "And?", (third,)),
            ),
        ),
    ]


class Case:
    """A family's tiny model with examples of every kind it can take."""

    def __init__(self, name: str, folder: Path) -> None:
        families.build(name, folder / "model")
        (folder / "images").mkdir()
        pixels = np.random.default_rng(0)
        for number, size in enumerate([(28, 28), (40, 28), (28, 60)]):
            picture = Image.fromarray(pixels.integers(0, 255, (*size, 3), dtype=np.uint8))
            picture.save(folder / "images" / f"{number}.png")
        images = FileImages(folder / "images")
        self.model = load_model(folder / "model", dtype="float32", device="cpu")
        self.model.requires_grad_(True)
        use_tree_attention(self.model)
        use_plain_layers(self.model)
        family = describe(self.model)
        processor = load_processor(folder / "model")
        tokeniser = Tokeniser(processor, self.model, family, images, 64)
        self.scoring = Scoring(family, tokeniser, vision_frozen=False)
        self.examples: list[TokenExample] = []
        writer = TableWriter(folder / "table.safetensors", family)
        into_table = Tokeniser(processor, self.model, family, images, 64, catalogue=writer)
        for count, prompt in enumerate(prompts([images.ref(f"{n}.png") for n in range(3)])):
            try:
                tokens, kept = tokeniser.prompt(prompt), into_table.prompt(prompt)
            except DataError:  # images for a text-only model, text for one that must see
                continue
            made = [Completion("c", prompt.id, text, "stop", "m", 0, 0) for text in TEXTS[: 1 + count % 5]]
            completions = tokeniser.completions(made)
            self.examples.append(token_example(prompt.id, [tokens], completions, 1.0))
            writer.add_tokens(kept)
            writer.add_example(count, token_example(prompt.id, [kept], completions, 1.0), [kept.number], completions)
        writer.finish(Counter(), 0)
        self.table = TokenTable(folder / "table.safetensors", family)
        assert len(self.examples) >= 2

    def batch(self, rows: list[list[TokenExample]], *, joined: bool = False) -> PackedBatch:
        num_tokens = self.scoring.tokeniser.units.num_tokens
        packed = [pack_row(row) for row in rows]
        return collate([join(packed)] if joined else packed, num_tokens, range(len(self.examples)))

    def gradients(self, logps: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, dict]:
        self.model.zero_grad(set_to_none=True)
        sums_Q, token_logps_T = logps()
        (sums_Q * torch.linspace(-1, 1, len(sums_Q))).sum().backward()
        named = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        return token_logps_T.detach(), named


@pytest.mark.parametrize("name", families.FAMILIES)
def test_packed_log_probs_and_gradients_equal_the_separate_computation(name: str, tmp_path: Path):
    torch.set_num_threads(1)
    case = Case(name, tmp_path)
    assert case.scoring.family.obstacle == ""
    sequences = [s for example in case.examples for s in example.sequences]
    alone_T, alone = case.gradients(lambda: separate_logps(case.model, sequences, case.scoring))
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    single = [[example] for example in case.examples]
    for batch in (case.batch([case.examples]), case.batch(single), case.batch(single, joined=True)):
        packed_T, packed = case.gradients(lambda batch=batch: sequence_logps(case.model, batch, case.scoring))
        torch.testing.assert_close(packed_T, alone_T, atol=2e-5, rtol=1e-5)
        assert packed.keys() == alone.keys()
        for parameter, gradient in alone.items():
            scale = float(gradient.abs().max())
            if scale > 1e-6 * largest:  # below that it is rounding around an exact zero, e.g. a key's bias
                difference = float((packed[parameter] - gradient).abs().max())
                assert difference <= 1e-4 * scale, parameter


@pytest.mark.parametrize("name", families.FAMILIES)
def test_what_sequences_share_is_held_once(name: str, tmp_path: Path):
    case = Case(name, tmp_path)
    row = pack_row(case.examples)
    alone = sum(len(s) for example in case.examples for s in example.sequences)
    assert len(row.tree) < (0.75 if name == "llama" else 0.5) * alone


@pytest.mark.parametrize("name", families.FAMILIES)
def test_what_a_file_keeps_of_examples_is_all_of_them(name: str, tmp_path: Path):
    case = Case(name, tmp_path)
    assert len(case.table) == len(case.examples)
    assert case.table.num_tokens_E.tolist() == [example.num_tokens for example in case.examples]
    for kept, example in zip(case.table, case.examples, strict=True):
        assert (kept.id, kept.num_completions, kept.weight) == (example.id, example.num_completions, example.weight)
        for one, other in zip(kept.sequences, example.sequences, strict=True):
            assert (one.key, one.prompt_length, one.prompt) == (other.key, other.prompt_length, other.prompt)
            for field in ("symbols_T", "input_ids_T", "positions_AT", "unit_T", "unit_index_T"):
                assert np.array_equal(getattr(one, field), getattr(other, field)), field
            assert case.table.catalogue.prompt(one.prompt) == case.scoring.tokeniser.units.catalogue.prompt(one.prompt)
    for units in (case.table.catalogue, case.scoring.tokeniser.units.catalogue):
        assert [units.unit(n) for n in range(units.num_units)] == [
            case.table.catalogue.unit(n) for n in range(case.table.catalogue.num_units)
        ]
    one, other = case.batch([list(case.table)]), case.batch([case.examples])
    for field in fields(PackedBatch):
        value = getattr(other, field.name)
        same = torch.equal(getattr(one, field.name), value) if isinstance(value, torch.Tensor) else True
        assert same and (isinstance(value, torch.Tensor) or getattr(one, field.name) == value), field.name


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_layer_attends_by_spans_and_has_no_mask(name: str, tmp_path: Path):
    case = Case(name, tmp_path)
    decoder = language_model(case.model)
    masks: list[Any] = []
    decoder.register_forward_pre_hook(
        lambda _, args, options: masks.append(options["attention_mask"]), with_kwargs=True
    )
    logps_P = packed_token_logps(case.model, case.batch([case.examples]), case.scoring)
    names = [node.name() for node in operations_behind(logps_P)]
    assert names.count("_BlockedBackward") == len(decoder.layers)
    (mask,) = masks
    assert all(not one.numel() for one in (mask.values() if isinstance(mask, dict) else [mask]))


@pytest.mark.parametrize(
    "name", ["gemma3", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2_5_vl", "paligemma"))]
)
def test_the_ways_of_a_gpu_compute_what_a_cpus_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All rows of a pass in one, grouped keys, windows and blocks; a plain softmax is put in for the GPU's kernel."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *states: None)
    case = Case(name, tmp_path)
    batch = case.batch([[example] for example in case.examples], joined=True)
    logps_T, expected = case.gradients(lambda: sequence_logps(case.model, batch, case.scoring))
    kernel = VarlenKernel.of(softmax_by_segment)
    together = partial(attention._together, kernel=kernel, dropout=0.0)
    for way in (together, attention._by_block_mask, partial(attention._span_by_span, dropout=0.0)):
        taken: list[torch.Tensor] = []

        def noted(*states: Any, way: Any = way, taken: list[torch.Tensor] = taken) -> torch.Tensor:
            taken.append(way(*states))
            return taken[-1]

        monkeypatch.setattr(attention, "_way", lambda *_, noted=noted: ("made up", noted))
        got_T, gradients = case.gradients(lambda: sequence_logps(case.model, batch, case.scoring))
        assert len(taken) == len(language_model(case.model).layers)
        torch.testing.assert_close(got_T, logps_T, atol=1e-5, rtol=1e-5)
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for parameter, gradient in expected.items():
            assert float((gradients[parameter] - gradient).abs().max()) <= 1e-5 * largest, parameter


def softmax_by_segment(  # noqa: PLR0917 - as it is called
    query: Any, key: Any, value: Any, query_bounds: Any, key_bounds: Any, most_queries: int, most_keys: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """Segments of queries and keys aligned at their ends, as FlashAttention documents its windows."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
    out = []
    for (a, b), (c, d) in zip(pairwise(query_bounds.tolist()), pairwise(key_bounds.tolist()), strict=True):
        before = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        left, right = (side if side >= 0 else 10**6 for side in window_size)
        scores = torch.einsum("qhe,khe->hqk", query[a:b], key[c:d]) * scale
        scores = scores.masked_fill((before > left) | (before < -right), -torch.inf)
        out.append(torch.einsum("hqk,khe->qhe", scores.softmax(-1), value[c:d]))
    return torch.cat(out)


READING = ("idefics3", "smolvlm", "qwen3_vl")
"""Families of which transformers itself reads a value from the device in each pass with images."""


@pytest.mark.parametrize("name", [name for name in families.FAMILIES if name not in READING])
def test_the_forward_reads_no_value_from_its_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tensors of the device "meta" have none to read."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # not asked of "meta"
    case = Case(name, tmp_path)
    units = case.scoring.tokeniser.units
    batch = case.batch([[example] for example in case.examples], joined=True)
    with torch.no_grad():
        found = case.scoring.features(case.model, batch.units) if batch.units else []
    made = [replace(f, embeddings=f.embeddings.to("meta"), deepstack=()) for f in found]
    monkeypatch.setattr(units, "features", lambda *_, **__: made)
    sums_Q, _ = sequence_logps(case.model.to("meta"), batch, case.scoring)
    sums_Q.sum().backward()
    assert sums_Q.is_meta
