"""Train the tiny models from scratch: `python -m pairsight.tiny.train --out DIR [--seed S] [--size base|large]`.

Three stages, counted in steps: the vision tower on per-patch labels; the language model on text tasks and scenes
told in words; visual instruction tuning on an imperfect writer's completions. All scenes come from the part "train".
Measured on the part "validation"; the held-out part is read once, for the model card.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pairsight.tiny.models.architecture import SIZES, build_model, build_processor
from pairsight.tiny.models.cards import Measured, write_card
from pairsight.tiny.train.language import InstructionRecipe, train_instruction, train_language
from pairsight.tiny.train.measure import benchmark_set, complete, measure
from pairsight.tiny.train.resumable import Log, start_log
from pairsight.tiny.train.vision import train_vision
from pairsight.tiny.world.scenes import Part

VISION_STEPS = 650
LANGUAGE_STEPS = 450
NUM_THREADS = 2  # the order of sums depends on it, so that weights repeat only at the same number
_CARD_SCENES, _CARD_TEXTS = 300, 490


def train(out: Path, seed: int, size: str, recipe: InstructionRecipe, log: Log) -> None:
    """Train a model and its backbone, write `out/model` and `out/backbone` in half precision, each with a card.

    Args:
        out: a folder, made if missing.
        seed: of weights, scenes and noise.
        size: a name of `SIZES`.
        recipe: of instruction tuning.
        log: called with progress lines.
    """
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(seed)
    processor = build_processor()
    model = build_model(SIZES[size])
    model.train()
    train_vision(model, 100 * seed + 1, VISION_STEPS, log)
    train_language(model, processor.tokenizer, 100 * seed + 2, LANGUAGE_STEPS, log)
    _save_backbone(model, processor, out / "backbone")
    before = _text_score(model, processor)
    log(f"text-only before visual tuning: {before:.3f}")
    torch.manual_seed(seed)
    train_instruction(model, processor.tokenizer, 100 * seed + 3, recipe, log)
    _save_model(model, processor, out / "model")
    model = _reload(out / "model")
    parts: tuple[Part, ...] = ("validation", "held_out")
    for part in parts:
        asked = benchmark_set(part, _CARD_SCENES, _CARD_TEXTS)
        scores = measure(asked, complete(model, processor, asked))
        log(f"{part}: {json.dumps({name: round(value, 3) for name, value in scores.items()})}")
    texts_only = Measured("held_out", 0, _CARD_TEXTS, _CARD_TEXTS, {}, before)
    write_card(out / "backbone", size, seed, None, texts_only)
    measured = Measured("held_out", _CARD_SCENES, _CARD_TEXTS, len(asked), scores, before)
    write_card(out / "model", size, seed, recipe, measured)


def _text_score(model: Any, processor: Any) -> float:
    """Text-only accuracy, 0–1, on the held-out part."""
    asked = benchmark_set("held_out", 0, _CARD_TEXTS)
    model.eval()
    score = measure(asked, complete(model, processor, asked))["text_accuracy"]
    model.train()
    return score


def _save_model(model: Any, processor: Any, folder: Path) -> None:
    """The complete model in half precision, with processor and preset."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    _finish(folder)


def _save_backbone(model: Any, processor: Any, folder: Path) -> None:
    """The language model as a `LlamaForCausalLM` of its own, in half precision, with tokenizer and preset."""
    from transformers import LlamaForCausalLM

    backbone = LlamaForCausalLM(model.config.text_config)
    backbone.model.load_state_dict(model.model.language_model.state_dict())
    backbone.lm_head.load_state_dict(model.lm_head.state_dict())
    backbone.generation_config = model.generation_config
    backbone.half().save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    _finish(folder)


def _finish(folder: Path) -> None:
    """Name the training preset and make every file readable by all."""
    (folder / "pairsight.json").write_text(json.dumps({"training_preset": "tiny"}) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)


def _reload(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m pairsight.tiny.train", description="Train the tiny models.")
    parser.add_argument("--out", type=Path, required=True, help="folder for model/ and backbone/")
    parser.add_argument("--seed", type=int, default=1, help="of weights, scenes and noise")
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    options = parser.parse_args()
    log = start_log()
    train(options.out, options.seed, options.size, InstructionRecipe(), log)


if __name__ == "__main__":
    main()
