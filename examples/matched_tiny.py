"""Do captions hallucinate less at equal length, and where they name as many true objects?

    python examples/matched_tiny.py runs/strategies/seed-*

Reads what `strategies_tiny.py` wrote for each seed and prints, per system, CHAIR_i's paired difference to the base
three ways: as it is, the longer of each two captions cut to the other's mentions, and on the captions alone that name
as many of the objects that are there as the base's caption of the same picture. Then what the caption pairs teach.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsight.pipeline.select import load_candidates
from pairsight.records import PreferencePair
from pairsight.selection.preference_rule import PreferenceRule
from pairsight.statistics import Difference, paired_bootstrap
from pairsight.tiny.train.scoring import count_caption, matched_chair
from pairsight.tiny.truth.annotator import read_truth
from pairsight.tiny.world.captions import mentioned_kinds

Sums = NDArray[np.float64]
Captions = Mapping[str, str]
"""Question's id -> caption."""
ANSWERS = ("run/studies/strategies/held-out", "variants")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=Path, nargs="+", help="folders OUT/seed-N")
    seeds = parser.parse_args().seeds
    print("| system | seed | CHAIR_i | at equal length | where recall is equal | such captions |")
    print("|---" * 6 + "|")
    for folder in ANSWERS:
        systems = sorted({path.stem.partition("-")[2] for path in (seeds[0] / folder).glob("answers-*.parquet")})
        for system in systems:
            if system != "base":
                print("".join(row(system, seed, folder) for seed in seeds), end="")
    print("\n| seed | caption pairs | absent objects named | objects left out | words |\n|---|---|---|---|---|")
    print("".join(pairs_row(seed) for seed in seeds))


def row(system: str, seed: Path, folder: str) -> str:
    """One line of the table for a system and a seed."""
    present = {one.id: one.present for one in read_truth(seed / "world" / "truth.jsonl") if one.kind == "caption"}
    base, aligned = (captions(seed / folder / f"answers-{name}.parquet", present.keys()) for name in ("base", system))
    both = [(base[one], aligned[one], present[one]) for one in base]
    counts = [(count_caption(a, p), count_caption(b, p)) for a, b, p in both]
    same = [(a, b) for a, b in counts if a.found == b.found]
    plain, kept = (
        chair([tuple((one.hallucinated, one.mentions) for one in two) for two in some]) for some in (counts, same)
    )
    first, second = matched_chair(*zip(*both, strict=True))
    length = chair(list(zip(first, second, strict=True)))
    share = f"{len(same)} of {len(both)}"
    return f"| {system} | {seed.name} | {shown(plain)} | {shown(length)} | {shown(kept)} | {share} |\n"


def captions(path: Path, wanted: Sequence[str] | set[str]) -> Captions:
    table = pq.read_table(path, columns=["id", "answer"]).to_pylist()
    return {one["id"]: one["answer"] for one in table if one["id"] in wanted}


def chair(sums: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Difference:
    """CHAIR_i of two models from (hallucinated mentions, mentions) of each caption."""
    base, aligned = (np.array([one[model] for one in sums], float) for model in (0, 1))
    return paired_bootstrap(base, aligned, range(len(sums)), lambda rows: {"chair": rows[:, 0] / rows[:, 1]})["chair"]


def shown(one: Difference) -> str:
    return f"{one.base:.3f} → {one.aligned:.3f} ({one.low:+.3f} … {one.high:+.3f})"


def pairs_row(seed: Path) -> str:
    """What sets chosen and rejected apart in the pairs about captions, by the unchanged preference rule."""
    truth = {one.image_sha256: one.present for one in read_truth(seed / "world" / "truth.jsonl") if one.image_sha256}
    chosen = map(PreferenceRule(), load_candidates(seed / "run"))
    pairs = [one for one in chosen if isinstance(one, PreferencePair) and is_caption(one)]

    def means(side: int) -> tuple[float, float, float]:
        seen = [(texts(one)[side], truth[one.prompt.images[0].sha256]) for one in pairs]
        absent = fmean(sum(kind not in present for kind in mentioned_kinds(text)) for text, present in seen)
        left_out = fmean(len(present.difference(mentioned_kinds(text))) for text, present in seen)
        return absent, left_out, fmean(len(text.split()) for text, _ in seen)

    cells = " | ".join(f"{a:.2f} / {b:.2f}" for a, b in zip(means(0), means(1), strict=True))
    return f"| {seed.name} | {len(pairs)} | {cells} |\n"


def is_caption(pair: PreferencePair) -> bool:
    return bool(pair.prompt.images) and all(len(mentioned_kinds(text)) > 1 for text in texts(pair))


def texts(pair: PreferencePair) -> tuple[str, str]:
    return pair.chosen.text, pair.rejected[0].text


if __name__ == "__main__":
    main()
