"""An inspection as sections of a page: a title, sentences, and figures with their captions."""

from dataclasses import dataclass

import numpy as np

from pairsight import plots
from pairsight.inspection.agreement import Agreement
from pairsight.inspection.describe import Inspection, annotator_in_words, topics
from pairsight.inspection.duplicates import Repetition
from pairsight.inspection.measures import Bias, Correlations, Lengths, Margins

Figures = tuple[tuple[str, str], ...]
"""(caption, SVG) each."""


@dataclass(frozen=True, slots=True)
class Section:
    """One subject: its sentences and its figures."""

    title: str
    sentences: tuple[str, ...]
    figures: Figures


def sections(inspection: Inspection) -> list[Section]:
    """The subjects with something to report, in reading order; drops are in the funnel."""
    figures: dict[str, Figures] = {
        "Length": _length(inspection.lengths),
        "Margins": _margins(inspection.margins),
        "Attributes": _heatmap(inspection.correlations),
        "Bias": tuple(figure for one in inspection.bias for figure in _bias(one)),
        "Agreement": tuple(figure for one in inspection.agreement for figure in _agreement(one)),
        "Repetition": _image_use(inspection.repetition),
    }
    return [
        Section(title, tuple(sentences), figures.get(title, ()))
        for title, sentences in topics(inspection).items()
        if title != "Dropped"
    ]


def _length(lengths: Lengths | None) -> Figures:
    if lengths is None:
        return ()
    both = {"chosen": lengths.chosen, "rejected": lengths.rejected}
    drift = np.subtract(lengths.chosen, lengths.rejected, dtype=np.float64)
    alt = f"Words of completions: chosen {lengths.mean_chosen:.1f}, rejected {lengths.mean_rejected:.1f} on average"
    return (
        ("Words of the completions", plots.histogram(both, x_label="words", y_label="comparisons", alt=alt)),
        (
            "Words of chosen minus rejected; pairs of equal length are at zero",
            plots.histogram({"": drift}, x_label="words", y_label="comparisons", alt="Length differences", level=0.0),
        ),
    )


def _margins(margins: Margins | None) -> Figures:
    if margins is None:
        return ()
    names = list(margins.means)
    bars = plots.bars(
        names,
        {"margin": list(margins.means.values())},
        x_label="chosen − rejected, mean",
        alt="Mean margin by attribute",
    )
    figures: Figures = (("Mean margin by attribute", bars),)
    if margins.totals:
        total = plots.histogram(
            {"": margins.totals},
            x_label="chosen − rejected",
            y_label="comparisons",
            alt="Margins of the total",
            level=0,
        )
        figures += (("Margin of the total: helpfulness + correctness + coherence", total),)
    return figures


def _heatmap(correlations: Correlations | None) -> Figures:
    if correlations is None:
        return ()
    names = correlations.attributes
    caption = f"Pearson's r between attributes, over {correlations.num_annotations:,} annotations"
    return ((caption, plots.heatmap(correlations.values, names, names, alt=caption)),)


def _bias(bias: Bias) -> Figures:
    if bias.p_value is None:
        return ()
    positions = [f"position {index + 1}" for index in range(len(bias.best_at))]
    caption = f"{annotator_in_words(bias.annotator)}: how often the best completion was shown at each position"
    return ((caption, plots.bars(positions, {"prompts": bias.best_at}, x_label="prompts", alt=caption)),)


def _agreement(agreement: Agreement) -> Figures:
    first, second = annotator_in_words(agreement.first), annotator_in_words(agreement.second)
    caption = f"Pearson's r between differences of two completions: rows {first}, columns {second}"
    rows, columns = agreement.first_attributes, agreement.second_attributes
    return ((caption, plots.heatmap(agreement.correlations, rows, columns, alt=caption)),)


def _image_use(repetition: Repetition) -> Figures:
    if repetition.images_used_more_than_once == 0:
        return ()
    uses = repetition.pairs_per_image
    caption = "Images by the number of pairs that use them"
    labels = [f"{number} pair{'s' if number > 1 else ''}" for number in uses]
    bars = plots.bars(labels[:20], {"images": list(uses.values())[:20]}, x_label="images", alt=caption)
    return ((caption, bars),)
