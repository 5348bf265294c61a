"""`pairsight inspect`: a run or a preference dataset in numbers and words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.inspection.agreement import AgreementMeter
from pairsight.inspection.dataset import Dataset, read_dataset
from pairsight.inspection.describe import Inspection, describe
from pairsight.inspection.duplicates import RepetitionMeter, find_contamination
from pairsight.inspection.measures import BiasMeter, CorrelationMeter, LengthMeter, MarginMeter, Meter

if TYPE_CHECKING:
    from pairsight.formats.datasets.reading import Reading

__all__ = ["Inspection", "describe", "inspect_dataset", "inspect_run"]


def inspect_run(path: Path, benchmark_images: Sequence[Path] = (), reading: "Reading | None" = None) -> Inspection:
    """Inspect a run folder or a dataset.

    Args:
        path: a run folder, or a dataset: a file, a folder, or OWNER/NAME on the hub.
        benchmark_images: folders of benchmarks' images that the data should not contain.
        reading: how a dataset is read; default: its format is found out and bad rows are counted.

    Raises:
        RunError: a run folder that is damaged.
        DataError: no dataset there, of no known format, or rows that cannot be read.
    """
    return inspect_dataset(read_dataset(path, reading), benchmark_images)


def inspect_dataset(dataset: Dataset, benchmark_images: Sequence[Path] = ()) -> Inspection:
    """Inspect a dataset, which is gone through once, or twice where benchmarks' images are looked for."""
    lengths, margins, correlations = LengthMeter(), MarginMeter(), CorrelationMeter()
    bias, agreement, repetition = BiasMeter(), AgreementMeter(), RepetitionMeter()
    meters: tuple[Meter[Any], ...] = (lengths, margins, correlations, bias, agreement, repetition)
    num_annotations = num_annotated = 0
    for rated in dataset.rated:
        for meter in meters:
            meter.add(rated)
        num_annotations += len(rated.annotations)
        num_annotated += len({annotation.completion_id for annotation in rated.annotations})
    contamination = [
        find_contamination((image for pair in dataset.pairs for image in pair.prompt.images), dataset.images, folder)
        for folder in benchmark_images
        if dataset.images is not None
    ]
    repeated = repetition.result()
    counts = {
        "prompts": dataset.num_prompts,
        "completions": dataset.num_completions,
        "annotations": num_annotations,
        "pairs": len(dataset.pairs),
        "demonstrations": dataset.num_demonstrations,
        "images": repeated.num_images,
    }
    return Inspection(
        name=dataset.name,
        counts={name: count for name, count in counts.items() if count or name == "pairs"},
        num_annotated=num_annotated,
        dropped=dataset.dropped,
        lengths=lengths.result(),
        margins=margins.result(),
        correlations=correlations.result(),
        bias=bias.result(),
        agreement=agreement.result(),
        repetition=repeated,
        roles=dataset.roles,
        contamination=tuple(contamination),
        format=dataset.format,
    )
