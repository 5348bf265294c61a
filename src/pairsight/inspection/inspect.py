"""`pairsight inspect`: a run or a preference dataset in numbers and words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pairsight.inspection.agreement import measure_agreement
from pairsight.inspection.dataset import Dataset, read_dataset
from pairsight.inspection.describe import Inspection, describe
from pairsight.inspection.duplicates import find_contamination, measure_repetition
from pairsight.inspection.measures import measure_bias, measure_correlations, measure_lengths, measure_margins

__all__ = ["Inspection", "describe", "inspect_dataset", "inspect_run"]


def inspect_run(path: Path, benchmark_images: Sequence[Path] = ()) -> Inspection:
    """Inspect a run folder or a preference dataset.

    Args:
        path: a run folder, or a Parquet file of pairs (a folder of them).
        benchmark_images: folders of benchmarks' images that the data should not contain.

    Raises:
        RunError: a run folder that is damaged.
        DataError: no dataset there, or rows that cannot be read.
    """
    return inspect_dataset(read_dataset(path), benchmark_images)


def inspect_dataset(dataset: Dataset, benchmark_images: Sequence[Path] = ()) -> Inspection:
    """Inspect a dataset that was read already; see `inspect_run`."""
    pairs = dataset.pairs
    images = {image.sha256: image for pair in pairs for image in pair.prompt.images}
    contamination = [
        find_contamination(images.values(), dataset.images, folder)
        for folder in benchmark_images
        if dataset.images is not None
    ]
    counts = {
        "prompts": dataset.num_prompts,
        "completions": dataset.num_completions,
        "annotations": len(dataset.annotations),
        "pairs": len(pairs),
        "demonstrations": dataset.num_demonstrations,
        "images": len(images),
    }
    return Inspection(
        name=dataset.name,
        counts={name: count for name, count in counts.items() if count or name == "pairs"},
        dropped=dict(Counter(f"{d.reason} ({d.stage})" for d in dataset.dropped).most_common()),
        lengths=measure_lengths(pairs),
        margins=measure_margins(pairs, dataset.annotations),
        correlations=measure_correlations(dataset.annotations),
        bias=measure_bias(dataset.completions, dataset.annotations),
        agreement=measure_agreement(dataset.completions, dataset.annotations, pairs),
        repetition=measure_repetition(pairs),
        roles=dataset.roles,
        contamination=tuple(contamination),
    )
