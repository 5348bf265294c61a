"""How the page names systems, controls and measures, and formats their figures."""

from pairsight.benchmarks.results import Section
from pairsight.reporting.page import visible

SYSTEMS = {"seva": "SeVa", "feedback": "Feedback", "synthetic": "Synthetic"}
"""System -> its name on the page."""

CONTROLS = {
    "null": ("null control", "trained in the same way on pairs whose two completions both saw the clean image"),
    "length_matched": ("length-matched", "trained in the same way on pairs whose two completions have equal length"),
    "text_only": ("text-only scorer", "trained in the same way on pairs ranked by a scorer that never sees the image"),
}
"""Control -> (its name, a description)."""

LABELS = {
    "chair_i": "CHAIR_i",
    "chair_s": "CHAIR_s",
    "chair_i_cut": "CHAIR_i at equal length",
    "f1": "F1",
    "yes_rate": "yes-rate",
    "yes_ratio": "yes-ratio",
    "text_accuracy": "text-only accuracy",
}
"""Names that are not spelled like the key with spaces in place of underscores."""

MEANINGS = {
    "accuracy": "share of yes-or-no questions answered correctly",
    "adversarial_accuracy": "accuracy on objects that often occur together with those in the image",
    "precision": "share of yes answers that are correct",
    "recall": "share of the objects present that were named, or confirmed with yes",
    "f1": "harmonic mean of precision and recall of yes answers",
    "yes_rate": "share of questions answered with yes; one half is right for balanced questions",
    "yes_ratio": "share of questions answered with yes; one half is right for balanced questions",
    "chair_i": "share of the named objects that are not in the image",
    "chair_s": "share of the captions that name an object which is not in the image",
    "chair_i_cut": "CHAIR_i of captions cut to the same number of mentions",
    "caption_length": "mean words of a caption; shorter captions have fewer chances to be wrong",
    "text_accuracy": "share of questions without an image answered correctly",
}
"""Measure -> one line for readers who do not know it."""


def system_title(name: str) -> str:
    """The name of a system or run on the page; `seva:second` is SeVa's adapter `second`."""
    system, colon, rest = name.partition(":")
    known = SYSTEMS.get(system, visible(system, 80))
    return f"{known}: {visible(rest, 80)}" if colon else known


def control_title(name: str) -> str:
    """A control's name on the page."""
    return CONTROLS[name][0] if name in CONTROLS else visible(name, 60).replace("_", " ")


def group_title(name: str) -> str:
    """The name of a category or benchmark on the page."""
    return visible(name, 60).replace("_", " ")


def section_title(section: Section) -> str:
    """A benchmark's name on the page, with the evaluation and the file where they are known."""
    rest = section.title.removeprefix(section.name)
    return f"{group_title(section.name)}{visible(rest, 120)}".strip()


def label(name: str, better: str = "") -> str:
    """A measure's name on the page; an arrow says which direction is better."""
    known = next((key for key in sorted(LABELS, key=len, reverse=True) if f"{name}_".startswith(f"{key}_")), "")
    words = LABELS.get(known, "") + visible(name[len(known) :], 60).replace("_", " ")
    return words + {"higher": " ↑", "lower": " ↓"}.get(better, "")


def number(value: float | None, *, signed: bool = False) -> str:
    """A figure with three decimals, or fewer where it is large, with a typographic minus sign; a dash for None."""
    if value is None:
        return "–"
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    if not text.strip("+-0."):
        text = f"{0:.{decimals}f}"
    return text.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """The interval of a difference, as text."""
    if low is None or high is None:
        return "no interval"
    return f"{number(low, signed=True)} to {number(high, signed=True)}"


def between(low: float | None, high: float | None) -> str:
    """The interval of a value, as text."""
    return "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"


def chance(p_value: object) -> str:
    """A p-value as text; "" for None."""
    if not isinstance(p_value, int | float) or isinstance(p_value, bool):
        return ""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def share(count: object, total: object) -> str:
    """A count with its share in percent; "" for None or zero."""
    if not isinstance(count, int) or not count:
        return ""
    return f"{count} ({count / total:.1%})" if isinstance(total, int) and total else str(count)
