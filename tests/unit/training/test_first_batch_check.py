"""The first-batch check in bfloat16: rounding passes it in every family, a wrongly seen prefix does not."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import families
from pairsight.engine.progress import Progress
from pairsight.errors import TrainingError
from pairsight.records import Message
from pairsight.training.trainer import PreferenceTrainer

OPTIONS = {"report_to": (), "lora_r": 4, "lora_alpha": 8.0, "bf16": True}


class Checked(Exception):  # noqa: N818
    """The first-batch check has passed."""


def check_first_batch(small, tmp_path: Path, monkeypatch, *, name: str, largest_logit: int, sharp: int = 1) -> None:
    """Start a bf16 training and end it after its check.

    Args:
        largest_logit: what the head is multiplied by; without it logits are of order one.
        sharp: what the queries and keys are multiplied by; without it attention hardly depends on positions.

    Raises:
        Checked: it passed.
    """
    from pairsight.models import load as load_module
    from pairsight.training.scorer import SequenceScorer

    real_load, real_check = load_module.load_model, SequenceScorer.check

    def load(*arguments, **options):
        model = real_load(*arguments, **options)
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.data * largest_logit)
        for part, parameter in model.named_parameters():
            if re.search("(q|k)_proj", part) and not re.search("vision|visual", part):
                parameter.data *= sharp
        return model

    def check(self, model):
        raise Checked(real_check(self, model))

    monkeypatch.setattr(load_module, "load_model", load)
    monkeypatch.setattr(SequenceScorer, "check", check)

    def pairs(count):
        text_only = [
            replace(p, prompt=replace(p.prompt, messages=(Message("user", p.id),))) for p in small.pairs(count)
        ]
        return text_only if name == "llama" else small.pairs(count)

    model = small.model if name == "llava" else families.build(name, tmp_path / "model")
    PreferenceTrainer(model, out=tmp_path / "a", images=small.images, progress=Progress("quiet"), **OPTIONS).train(
        pairs(6)
    )


FAST = ("llava", "qwen2_vl", "llama")


@pytest.mark.parametrize("largest_logit", [1, 20])
@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(n, marks=pytest.mark.long) for n in families.FAMILIES if n not in FAST)]
)
def test_rounding_in_bf16_is_no_wrong_prefix(small, tmp_path: Path, monkeypatch, name: str, largest_logit: int):
    with pytest.raises(Checked):
        check_first_batch(small, tmp_path, monkeypatch, name=name, largest_logit=largest_logit)


@pytest.mark.parametrize("largest_logit", [1, 20])
@pytest.mark.parametrize("name", ["llava", "llama"])
def test_completions_that_see_each_other_fail_the_check_in_bf16_too(
    small, tmp_path: Path, monkeypatch, name: str, largest_logit: int
):
    from pairsight.training.kernels.spans import Span

    def leaking(parent_S, *others):
        return (Span(0, len(parent_S), ((0, len(parent_S)),)),)

    monkeypatch.setattr("pairsight.training.kernels.attention.spans_of", leaking)
    with pytest.raises(TrainingError, match="packed log-probs differ"):
        check_first_batch(small, tmp_path, monkeypatch, name=name, largest_logit=largest_logit)


@pytest.mark.parametrize("largest_logit", [1, 20])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "llama"])
@pytest.mark.parametrize("by", [0, 1])
def test_positions_one_too_far_fail_the_check_in_bf16(
    small, tmp_path: Path, monkeypatch, *, by: int, name: str, largest_logit: int
):
    """Completions begin `by` positions after where they should."""
    from pairsight.training import scorer as scorer_module

    real = scorer_module.collate

    def shifted(rows, *arguments):
        batch = real(rows, *arguments)
        if len(rows) > 1:  # the reference; the check takes one
            return batch
        first = rows[0].sequences[0].positions_AT[:, rows[0].sequences[0].prompt_length].max()
        return replace(batch, positions_ARS=batch.positions_ARS + by * (batch.positions_ARS >= first))

    monkeypatch.setattr(scorer_module, "collate", shifted)
    expected, message = (TrainingError, "packed log-probs differ") if by else (Checked, r"\d")
    with pytest.raises(expected, match=message):
        check_first_batch(small, tmp_path, monkeypatch, name=name, largest_logit=largest_logit, sharp=5)
