"""`inspection.html`: a dataset before training, in sentences, figures and a dozen pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsight.inspection.dataset import Dataset, read_dataset
from pairsight.inspection.describe import Inspection
from pairsight.inspection.figures import Section, sections
from pairsight.inspection.inspect import inspect_dataset
from pairsight.reporting.gallery import PairCard, evenly_spaced, pair_cards
from pairsight.reporting.page import render, visible
from pairsight.store.durable import write_file
from pairsight.version import __version__

_NUM_CARDS = 12


@dataclass(frozen=True, slots=True)
class _View:
    """What the template shows."""

    notes: tuple[str, ...]
    funnel: tuple[tuple[str, int], ...]
    dropped: tuple[tuple[str, int], ...]
    sections: tuple[Section, ...]
    cards: tuple[PairCard, ...]


def write_inspection(path: Path, out: Path, benchmark_images: Sequence[Path] = ()) -> Inspection:
    """Inspect a run folder or a preference dataset and write the findings as one self-contained page.

    Args:
        path: a run folder, or a Parquet file of pairs (or a folder of such files).
        out: the page's file.
        benchmark_images: folders of benchmark images that the data should not contain.

    Returns:
        The inspection, for `describe`.

    Raises:
        RunError, DataError: nothing to inspect, damaged data, or a page that cannot be written.
    """
    dataset = read_dataset(path)
    inspection = inspect_dataset(dataset, benchmark_images)
    write_file(out, _html(dataset, inspection).encode("utf-8", "replace"))
    return inspection


def _html(dataset: Dataset, inspection: Inspection) -> str:
    found = sections(inspection)
    cards = pair_cards(evenly_spaced(dataset.pairs, _NUM_CARDS), dataset.images)
    steps = [(name, count) for name, count in inspection.counts.items() if name != "images"]
    view = _View((), tuple(steps), tuple(inspection.dropped.items()), tuple(found), tuple(cards))
    prefix = "warning: "
    warnings = [s.removeprefix(prefix) for section in found for s in section.sentences if s.startswith(prefix)]
    return render(
        "inspection.html",
        title=visible(dataset.name, 80),
        warnings=warnings,
        run=view,
        any_approximate=any(image.approximate for card in cards for image in card.images),
        pairsight_version=__version__,
    )
