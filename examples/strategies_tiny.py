"""Strategies on the embedded default over several seeds, and what may reduce DPO's loss of recall.

    python examples/strategies_tiny.py --out runs/strategies

Per seed: a world, a feedback run rated by the world's truth, `study strategies`, and variants of DPO (another margin,
pairs of like length, an `sft` term, other rates) beside it. Every part resumes. The tables of a seed are in
OUT/seed-N/run/studies/strategies and OUT/seed-N/variants; what is printed at the end is the mean over seeds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from over_seeds import over_seeds

import pairsight.tiny.world.benchmark
from pairsight.formats.prompts import read_prompts
from pairsight.pipeline.align import AlignSpec, align_run
from pairsight.pipeline.build import build as build_data
from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run
from pairsight.recipes.feedback import Feedback
from pairsight.studies.strategies import StrategiesStudy
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.truth.annotator import TruthAnnotator
from pairsight.tiny.world.world_files import write_world

TINY = f"{pairsight.tiny.world.benchmark.__file__}:TinyWorld"
HELPFUL = {"weights": {"helpfulness": 2.0, "correctness": 1.0, "coherence": 1.0}}
BOTH = ["dpo", "sft"]
VARIANTS: dict[str, dict[str, Any]] = {
    "margin-1": {"strategy_options": {"min_margin": 1}},
    "margin-4": {"strategy_options": {"min_margin": 4}},
    "like-length": {"max_length_difference": 1},
    "sft-term-0.2": {"loss": BOTH, "loss_weights": [1.0, 0.2]},
    "sft-term-1": {"loss": BOTH, "loss_weights": [1.0, 1.0]},
    "sft-term-3": {"loss": BOTH, "loss_weights": [1.0, 3.0]},
    "helpful-2x": {"strategy_options": HELPFUL},
    "helpful-2x-sft-term-1": {"strategy_options": HELPFUL, "loss": BOTH, "loss_weights": [1.0, 1.0]},
    "half-rate": {"learning_rate": 1e-4},
    "double-rate": {"learning_rate": 4e-4},
    "double-rate-sft-term-3": {"learning_rate": 4e-4, "loss": BOTH, "loss_weights": [1.0, 3.0]},
    "images-only": {"text_only_prompts": False},
    "by-image": {"group_by_image": True},
}
Figures = dict[str, dict[str, dict[str, Any]]]
"""System -> metric -> its row: base, value, difference, low, high."""
SHOWN = ("accuracy", "chair_i", "chair_i_cut", "recall", "caption_length", "text_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes, and as many for validation")
    parser.add_argument("--prompt-scenes", type=int, default=400)
    parser.add_argument("--rate-factors", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--without-text-only", action="store_true", help="each strategy also on image prompts alone")
    parser.add_argument("--model", help="another base than the shipped one, e.g. the second tiny model")
    parser.add_argument("--max-steps", type=int, default=-1, help="a few, to see that everything works")
    asked = parser.parse_args()
    found = [one_seed(asked.out / f"seed-{seed}", seed, asked) for seed in asked.seeds]
    print(table_over_seeds(found))


def one_seed(out: Path, seed: int, asked: argparse.Namespace) -> Figures:
    base = {} if asked.model is None else {"model": asked.model}
    world = write_world(out / "world", asked.scenes, seed, prompt_scenes=asked.prompt_scenes, **base)
    validation = write_world(out / "validation", asked.scenes, seed, part="validation", prompt_scenes=0, model=None)
    run, model = build(out / "run", world, seed), str(world / "model")
    training = {"seed": seed, "max_steps": asked.max_steps}
    study = StrategiesStudy(
        run=str(run),
        model=model,
        benchmarks={TINY: str(world / "truth.jsonl")},
        validation={TINY: str(validation / "truth.jsonl")},
        choose_by="tiny.accuracy",
        images=str(world / "images"),
        validation_images=str(validation / "images"),
        strategy_options={"sft": {"sft_source": "dataset"}},
        rate_factors=tuple(asked.rate_factors),
        without_text_only=asked.without_text_only,
        backbone=str(shipped_model("backbone")),
        text_benchmarks=(TINY,),
        training=training,
        evaluation={"batch_size": 256},
    )
    compared, *rates = study.results()
    print("".join(result.markdown() for result in rates))
    found: Figures = {}
    for row in compared.rows:
        named = dict(zip(compared.columns, row, strict=True))
        found.setdefault(str(named["system"]), {})[str(named["metric"]).partition(".")[2]] = named
    return found | compare_variants(out, run, world, training)


def build(run: Path, world: Path, seed: int) -> Path:
    """Completions, ratings by the truth, and the dataset's own answers, for strategy sft."""
    if (run / "data" / "manifest.json").is_file():
        return run
    prompts = read_prompts(world / "prompts.json", images=world / "images")
    recipe, annotator = Feedback(max_new_tokens=48, seed=seed), TruthAnnotator(world / "truth.jsonl")
    build_data(recipe, prompts, model=world / "model", run=run, annotator=annotator, dataset_answers=True)
    return run


def compare_variants(out: Path, run: Path, world: Path, training: dict[str, Any]) -> Figures:
    common = {"data": str(run), "model": str(world / "model"), **training}
    adapters = {
        name: str(align_run(AlignSpec.parse({**common, **options, "out": str(out / "align" / name)})).adapter)
        for name, options in VARIANTS.items()
    }
    evaluation = {
        "model": common["model"], "adapters": adapters, "benchmarks": {TINY: str(world / "truth.jsonl")},
        "images": str(world / "images"), "out": str(out / "variants"), "batch_size": 256,
    }  # fmt: skip
    evaluated = evaluate_run(EvaluateSpec.parse(evaluation))
    found: Figures = {}
    for name, system in evaluated.to_plain()["systems"].items():
        metrics = system["benchmarks"]["tiny"]["metrics"]
        found[f"dpo, {name}"] = {metric: {**row, "value": row["aligned"]} for metric, row in metrics.items()}
    return found


def table_over_seeds(found: Sequence[Figures]) -> str:
    """The mean over seeds; in brackets the difference to the base, its interval over seeds, where it is clear."""
    lines = [f"| system | {' | '.join(SHOWN)} |", f"|{'---|' * (len(SHOWN) + 1)}"]
    for system in found[0]:
        cells = []
        for metric in SHOWN:
            rows = [one[system][metric] for one in found if metric in one[system]]
            if not rows or any(row["value"] is None for row in rows):
                cells.append("")
                continue
            clear = sum(1 for row in rows if row["low"] > 0 or row["high"] < 0)
            difference = over_seeds([row["difference"] for row in rows])
            cells.append(f"{fmean(row['value'] for row in rows):.3f} ({difference}, {clear}/{len(rows)})")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    first = next(iter(found[0]))
    bases = [f"{fmean(one[first][metric]['base'] for one in found):.3f}" for metric in SHOWN]
    lines.insert(2, f"| base | {' | '.join(bases)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
