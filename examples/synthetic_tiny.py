"""The synthetic system on the embedded default over several seeds: scorers that look against one that does not.

    python examples/synthetic_tiny.py --out runs/synthetic

Per seed: a world (its held-out scenes and its texts), pictures and answers from them, and four trainings on the same
candidates: pairs ranked by BLIP's matching head (`looking`) and by the reward model that never sees the picture
(`text_only`), and both again with pairs of completions that have equally many words. What the pairs say of their
pictures is counted by reading the pictures (`read_picture`). Every part resumes.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from over_seeds import over_seeds

import pairsight.tiny.world.benchmark
from pairsight.pipeline.align import AlignSpec, align_run
from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run
from pairsight.pipeline.select import load_candidates, select
from pairsight.records import Completion, PreferencePair
from pairsight.selection.strategy import make_strategy
from pairsight.studies.synthetic_run import analyse_run
from pairsight.tiny.demo import build_synthetic
from pairsight.tiny.world.captions import count_caption
from pairsight.tiny.world.picture_texts import write_texts
from pairsight.tiny.world.read_picture import kinds_in
from pairsight.tiny.world.world_files import write_world

TINY = f"{pairsight.tiny.world.benchmark.__file__}:TinyWorld"
EQUAL = {"max_length_difference": 0}
READING = {"scorer": "sequence"}
TRAININGS: dict[str, dict[str, Any]] = {
    "looking": {},
    "text_only": {"strategy_options": READING},
    "looking-equal-length": {"strategy_options": EQUAL},
    "text_only-equal-length": {"strategy_options": {**READING, **EQUAL}},
}
SHOWN = ("chair_i", "chair_i_cut", "recall", "accuracy", "f1", "yes_rate", "caption_length", "text_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes")
    parser.add_argument("--texts-per-topic", type=int, default=120, help="five topics")
    parser.add_argument("--max-steps", type=int, default=-1, help="a few, to see that everything works")
    asked = parser.parse_args()
    found = {seed: one_seed(asked.out / f"seed-{seed}", seed, asked) for seed in asked.seeds}
    print_over_seeds(found)


def one_seed(out: Path, seed: int, asked: argparse.Namespace) -> Mapping[str, Any]:
    """The evaluation's systems by the training's name."""
    world = write_world(out / "world", asked.scenes, seed, prompt_scenes=0)
    texts = out / "texts.jsonl"
    write_texts(texts, asked.texts_per_topic, seed)
    build_synthetic(world, out / "run", seed=seed, texts=texts)
    for result in analyse_run(out / "run")[0]:
        print(result.markdown())
    count_faults(out / "run")
    model = str(world / "model")
    common = {"data": str(out / "run"), "model": model, "seed": seed, "max_steps": asked.max_steps}
    adapters = {
        name: str(align_run(AlignSpec.parse({**common, **options, "out": str(out / "align" / name)})).adapter)
        for name, options in TRAININGS.items()
    }
    evaluation = {
        "model": model, "adapters": adapters, "benchmarks": {TINY: str(world / "truth.jsonl")},
        "images": str(world / "images"), "out": str(out / "evaluate"), "batch_size": 256, "seed": seed,
    }  # fmt: skip
    found: Mapping[str, Any] = evaluate_run(EvaluateSpec.parse(evaluation)).to_plain()["systems"]
    print(f"\nseed {seed}: base, aligned, 95 % interval of the paired difference")
    print(f"| metric | base | {' | '.join(found)} |\n|{'---|' * (len(found) + 2)}")
    for metric in SHOWN:
        rows = [system["benchmarks"]["tiny"]["metrics"][metric] for system in found.values()]
        cells = [f"{row['aligned']:.3f} ({row['low']:+.3f} … {row['high']:+.3f})" for row in rows]
        print(f"| {metric} | {rows[0]['base']:.3f} | {' | '.join(cells)} |")
    return found


def count_faults(run: Path) -> None:
    """What chosen and rejected texts say that their pictures, as read, do not show."""
    candidates = load_candidates(run)
    print("\n| pairs by | pairs | absent objects: chosen | rejected | objects left out: chosen | rejected | words | |")
    print("|---|---|---|---|---|---|---|---|")
    for name, options in TRAININGS.items():
        chosen, _ = select(candidates, make_strategy("best_over_worst", **options.get("strategy_options", {})))
        pairs = [pair for pair in chosen.items if isinstance(pair, PreferencePair)]
        counts = []
        for pair in pairs:
            shown = kinds_in(np.asarray(candidates.images.open(pair.prompt.images[0])))
            counts.append([_faults(one, shown) for one in (pair.chosen, pair.rejected[0])])
        sums = np.array(counts, dtype=float).mean(axis=0).T  # fault × side
        print(f"| {name} | {len(pairs)} | " + " | ".join(f"{value:.2f}" for value in sums.ravel()) + " |")


def _faults(completion: Completion, shown: frozenset[int]) -> tuple[int, int, int]:
    counts = count_caption(completion.text, shown)
    return counts.hallucinated, counts.present - counts.found, counts.words


def print_over_seeds(found: Mapping[int, Mapping[str, Any]]) -> None:
    """Mean difference over seeds with Student's interval."""
    print(f"\nmean difference over {len(found)} seeds, 95 % interval of Student's t")
    print(f"| metric | {' | '.join(TRAININGS)} |\n|{'---|' * (len(TRAININGS) + 1)}")
    for metric in SHOWN:
        cells = []
        for name in TRAININGS:
            rows = [one[name]["benchmarks"]["tiny"]["metrics"][metric] for one in found.values()]
            cells.append(over_seeds([row["aligned"] - row["base"] for row in rows]))
        print(f"| {metric} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
