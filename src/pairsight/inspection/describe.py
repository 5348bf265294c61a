"""An inspection in words, for a terminal or a page. A sentence that begins with `warning` asks for a decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pairsight.formats.pairs import GIVEN
from pairsight.inspection.agreement import Agreement
from pairsight.inspection.duplicates import Contamination, Repetition
from pairsight.inspection.measures import Bias, Correlations, Lengths, Margins
from pairsight.inspection.roles import Roles, roles_in_words


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found. A part is None where the data has nothing to measure it on."""

    name: str
    counts: Mapping[str, int]
    num_annotated: int
    dropped: Mapping[str, int]
    lengths: Lengths | None
    margins: Margins | None
    correlations: Correlations | None
    bias: tuple[Bias, ...]
    agreement: tuple[Agreement, ...]
    repetition: Repetition
    roles: Roles
    contamination: tuple[Contamination, ...] = ()
    format: str = ""


_DRIFT = 0.1
"""Chosen and rejected differ in mean length by more than a tenth: worth a warning (ours)."""

_STRONG = 0.9
"""Two attributes with |r| above this say the same thing (ours)."""

_LENGTH_BIAS = 0.5
"""Words explain more than a quarter (r²) of the differences in total: worth a warning (ours)."""

_UNEVEN = 0.01
"""The p-value below which positions are called unequal (ours)."""


def describe(inspection: Inspection) -> str:
    """The full inspection as plain text, one finding per line."""
    parts = [inspection.name, *([f"  {inspection.format}"] if inspection.format else [])]
    parts.append(f"  {counts_in_words(inspection.counts)}")
    for title, sentences in topics(inspection).items():
        parts += [title, *(f"  {sentence}" for sentence in sentences)]
    return "\n".join(parts)


def topics(inspection: Inspection) -> dict[str, list[str]]:
    """Title -> sentences, for the topics with something to report, in reading order."""
    found = {
        "Dropped": [", ".join(f"{reason} {count:,}" for reason, count in inspection.dropped.items()) or "nothing"],
        "Length": lengths_in_words(inspection.lengths),
        "Margins": margins_in_words(inspection.margins),
        "Attributes": correlations_in_words(inspection.correlations),
        "Bias": [sentence for one in inspection.bias for sentence in bias_in_words(one)],
        "Agreement": [sentence for one in inspection.agreement for sentence in agreement_in_words(one)],
        "Repetition": repetition_in_words(inspection.repetition),
        "Benchmark images": [sentence for one in inspection.contamination for sentence in contamination_in_words(one)],
        "Models": roles_in_words(inspection.roles),
    }
    return {title: sentences for title, sentences in found.items() if sentences}


def counts_in_words(counts: Mapping[str, int]) -> str:
    """How many there are of each."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def lengths_in_words(lengths: Lengths | None) -> list[str]:
    """Which side is longer, by how much, and a warning where pairs would teach length."""
    if lengths is None:
        return []
    drift = lengths.mean_chosen - lengths.mean_rejected
    low, high = lengths.interval or (None, None)
    interval = "" if low is None or high is None else f" (95 % interval {signed(low, 1)} to {signed(high, 1)})"
    sentences = [
        f"chosen {lengths.mean_chosen:.1f} words, rejected {lengths.mean_rejected:.1f}: {signed(drift, 1)}{interval}",
        f"chosen is longer in {lengths.share_chosen_longer:.0%}, shorter in {lengths.share_rejected_longer:.0%} "
        f"of {len(lengths.chosen):,} comparisons",
    ]
    if abs(drift) > _DRIFT * max(lengths.mean_rejected, 1.0):
        word = "longer" if drift > 0 else "shorter"
        sentences.append(
            f"warning: training on these pairs also rewards {word} completions; "
            "compare with `pairsight align … --set max_length_difference=2` (length-matched pairs)"
        )
    return sentences


def margins_in_words(margins: Margins | None) -> list[str]:
    """The mean margin of the total and of each attribute."""
    if margins is None:
        return []
    means = [f"{name} {signed(mean, 2)}" for name, mean in margins.means.items()]
    sentences = [f"chosen minus rejected, on average: {', '.join(means)}"]
    if margins.totals:
        low, high = min(margins.totals), max(margins.totals)
        mean = sum(margins.totals) / len(margins.totals)
        sentences.append(
            f"total (helpfulness + correctness + coherence) {signed(mean, 2)}, from {low:g} to {high:g}".replace(
                "-", "−"
            )
        )
    return sentences


def correlations_in_words(correlations: Correlations | None) -> list[str]:
    """Pairs of attributes that say nearly the same thing, and attributes that never vary."""
    if correlations is None:
        return []
    sentences = []
    names = correlations.attributes
    for i, first in enumerate(names):
        if correlations.values[i][i] is None:
            sentences.append(f"{first} never varies: it does not distinguish completions")
        for j in range(i):
            r = correlations.values[i][j]
            if r is not None and abs(r) > _STRONG:
                what = "nearly one attribute" if r > 0 else "nearly each other's opposite"
                sentences.append(f"{names[j]} and {first} are correlated (r = {signed(r, 2)}): {what}")
    return sentences or [f"no two of {len(names)} attributes say the same thing (all |r| ≤ {_STRONG})"]


def bias_in_words(bias: Bias) -> list[str]:
    """Whether an annotator rates longer completions, or those at one position, higher."""
    who = annotator_in_words(bias.annotator)
    sentences = []
    if bias.length_correlation is not None:
        r = bias.length_correlation
        sentences.append(
            f"{who}, length: r = {signed(r, 2)} between differences in words and in total, "
            f"over {bias.num_comparisons:,} comparisons within prompts"
        )
        if abs(r) > _LENGTH_BIAS:
            sentences.append(f"warning: {who} rewards {'longer' if r > 0 else 'shorter'} completions")
    if bias.p_value is not None:
        total = sum(bias.best_at)
        shares = ", ".join(f"{count / total:.0%}" for count in bias.best_at)
        sentences.append(
            f"{who}, position: the best completion was shown first, second … in {shares} of {total:,} prompts "
            f"(p = {bias.p_value:.2g} if all are equally likely)"
        )
        if bias.p_value < _UNEVEN:
            sentences.append(f"warning: {who} rates completions by the position at which they are shown")
    return sentences


def annotator_in_words(name: str) -> str:
    """An annotator's name; a long fingerprint is shortened."""
    return name if len(name) <= 40 else f"{name[:20]}…"


def agreement_in_words(agreement: Agreement) -> list[str]:
    """How far two annotators agree."""
    what = f"{annotator_in_words(agreement.first)} and {annotator_in_words(agreement.second)}"
    sentences = [f"{what}: {agreement.num_completions:,} completions, {agreement.num_comparisons:,} comparisons"]
    for i, first in enumerate(agreement.first_attributes):
        for j, second in enumerate(agreement.second_attributes):
            r = agreement.correlations[i][j]
            if r is not None and (first == second or GIVEN in (agreement.first, agreement.second)):
                kappa = agreement.kappas.get(first) if first == second else None
                also = "" if kappa is None else f", κ = {kappa:.2f} (quadratic)"
                name = first if first == second else f"{first} and {second}"
                sentences.append(f"{name}: r = {signed(r, 2)}{also}")
    return sentences


def repetition_in_words(repetition: Repetition) -> list[str]:
    """What is repeated, what contradicts, and how images are used."""
    sentences = [
        f"{repetition.repeated_pairs:,} repeated pairs, {repetition.repeated_questions:,} repeated questions",
        f"{repetition.images_used_more_than_once:,} of {repetition.num_images:,} images are used by more than one pair",
    ]
    if repetition.num_text_only:
        sentences.append(f"{repetition.num_text_only:,} pairs have no image")
    if repetition.num_cut:
        sentences.append(f"{repetition.num_cut:,} chosen or rejected completions were cut at the length limit")
    if repetition.contradictions:
        sentences.append(
            f"warning: {repetition.contradictions:,} pairs contradict another: chosen and rejected swapped"
        )
    return sentences


def contamination_in_words(found: Contamination) -> list[str]:
    """Whether the data holds a benchmark's images, and which."""
    total = len(found.same) + len(found.near)
    where = f"{found.folder} ({found.num_benchmark_images:,} images)"
    sentences = []
    if total:
        examples = _examples([match.benchmark_image for match in (*found.same, *found.near)])
        sentences.append(
            f"warning: {total:,} of {found.num_images:,} images are in {where} too: {len(found.same):,} the same file, "
            f"{len(found.near):,} near copies; {examples}"
        )
    else:
        sentences.append(f"none of {found.num_images:,} images is in {where}, as the same file or a near copy")
    if found.num_unreadable:
        sentences.append(f"{found.num_unreadable:,} images could not be read and were not compared")
    return sentences


def signed(value: float, decimals: int) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
