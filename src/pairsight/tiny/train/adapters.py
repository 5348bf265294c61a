"""Train the tiny adapters of the base: `python -m pairsight.tiny.train.adapters --out DIR`.

Low-rank layers on the base's language model, tuned as the base was but on other writers' completions, make models that
differ as checkpoints of several vendors do: one that seldom names what is not there, and one that leaves much out.
Scenes are of the part "train", with other seeds than the base's.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch

from pairsight.models.folders import fingerprint
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.train.labeller import Habits
from pairsight.tiny.train.language import InstructionRecipe, train_instruction
from pairsight.tiny.train.measure import benchmark_set, complete, measure
from pairsight.tiny.train.resumable import Log, start_log

HABITS: Mapping[str, Habits] = MappingProxyType(
    {"careful": Habits(added_slope=0.3), "terse": Habits(added_slope=1.0, left_out=0.5)}
)
STEPS = 120
_RANK = 8
_SHOWN = ("accuracy", "f1", "yes_rate", "chair_i", "recall", "caption_length", "text_accuracy")
_CARD_SCENES = 300


def train_adapter(name: str, out: Path, seed: int, log: Log) -> None:
    """Train one adapter of the shipped base and write it, with its card, to `out`.

    Args:
        name: of its writer's habits, "careful" or "terse".
        out: the adapter's folder; it names its base as `../base`.
        seed: of low-rank weights, scenes and noise.
        log: called with progress lines.
    """
    from peft import LoraConfig, get_peft_model

    base = shipped_model("base")
    torch.manual_seed(seed)
    processor = load_processor(base)
    layers = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    model = get_peft_model(
        load_model(base, dtype="float32", device="cpu"),
        LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=layers),
    ).train()
    recipe = InstructionRecipe(steps=STEPS, language_rate=2e-3, habits=HABITS[name])
    train_instruction(model.get_base_model(), processor.tokenizer, 100 * seed + 3, recipe, log)
    model.peft_config["default"].base_model_name_or_path = "../base"
    model.eval().half().save_pretrained(out)
    note = {"base_fingerprint": fingerprint(base)}
    (out / "pairsight.json").write_text(json.dumps(note) + "\n", encoding="utf-8")
    asked = benchmark_set("held_out", _CARD_SCENES, 0)
    scores = measure(asked, complete(load_model(base, adapter=out, dtype="float32"), processor, asked))
    log(f"{name}: {json.dumps({key: round(value, 3) for key, value in scores.items()})}")
    (out / "README.md").write_text(_card(name, seed, recipe, scores), encoding="utf-8")
    for file in out.iterdir():
        file.chmod(0o644)


def _card(name: str, seed: int, recipe: InstructionRecipe, scores: Mapping[str, float]) -> str:
    lines = [
        "---", "license: apache-2.0", "library_name: peft", "base_model: ../base", "---", "",
        f"# Pairsight tiny, {name}", "",
        f"Low-rank layers (r {_RANK}) on the language model of the tiny base beside it, trained by",
        f"`python -m pairsight.tiny.train.adapters --seed {seed}` in {recipe.steps} steps of visual instruction tuning",
        f"on a writer with these habits (`pairsight.tiny.train.labeller.Habits`): {asdict(recipe.habits)}.",
        "",
        f"Greedy, single precision, on {_CARD_SCENES} scenes of the part `held_out` (seed 0):",
        "",
        "| metric | value |", "|---|---|",
        *(f"| {key} | {scores[key]:.3f} |" for key in _SHOWN if key in scores), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m pairsight.tiny.train.adapters")
    parser.add_argument("--out", type=Path, required=True, help=f"a folder for {' and '.join(HABITS)}")
    parser.add_argument("--seed", type=int, default=5, help="of low-rank weights, scenes and noise")
    parser.add_argument("--threads", type=int, default=1, help="the order of sums depends on it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = start_log()
    for name in HABITS:
        train_adapter(name, options.out / name, options.seed, log)


if __name__ == "__main__":
    main()
