"""How the page names systems, controls and measures, and writes their figures."""

from pairsight.benchmarks.results import Section
from pairsight.reporting.page import visible

SYSTEMS = {"seva": "SeVa", "feedback": "Feedback", "synthetic": "Synthetic"}
"""The systems' names for people."""

CONTROLS = {
    "null": ("null control", "trained in the same way on pairs whose two completions both saw the clean image"),
    "length_matched": ("length-matched", "trained in the same way on pairs whose two completions have equal length"),
    "text_only": ("text-only scorer", "trained in the same way on pairs ranked by a scorer that never sees the image"),
}
"""Control -> (its name, what it is)."""

LABELS = {
    "chair_i": "CHAIR_i",
    "chair_s": "CHAIR_s",
    "chair_i_cut": "CHAIR_i at equal length",
    "f1": "F1",
    "yes_rate": "yes-rate",
    "yes_ratio": "yes-ratio",
    "text_accuracy": "text-only accuracy",
}
"""Names of the field whose spelling is not the key's with spaces."""

MEANINGS = {
    "accuracy": "share of yes-or-no questions answered rightly",
    "adversarial_accuracy": "accuracy about objects that often stand beside those in the image",
    "precision": "share of yes answers that are right",
    "recall": "share of what is there that was named, or answered yes to",
    "f1": "harmonic mean of precision and recall of yes answers",
    "yes_rate": "share of questions answered with yes; balanced questions deserve one half",
    "yes_ratio": "share of questions answered with yes; balanced questions deserve one half",
    "chair_i": "share of the named objects that are not in the image",
    "chair_s": "share of the captions that name an object which is not there",
    "chair_i_cut": "CHAIR_i of captions cut to the same number of mentions",
    "caption_length": "mean words of a caption; a shorter one can err less",
    "text_accuracy": "share of questions without an image answered rightly",
}
"""One line for a reader who does not know the measure."""


def system_title(name: str) -> str:
    """A system's or run's name for people; `seva:second` is SeVa's adapter `second`."""
    system, colon, rest = name.partition(":")
    known = SYSTEMS.get(system, visible(system, 80))
    return f"{known}: {visible(rest, 80)}" if colon else known


def control_title(name: str) -> str:
    """A control's name for people."""
    return CONTROLS[name][0] if name in CONTROLS else visible(name, 60).replace("_", " ")


def group_title(name: str) -> str:
    """A category's or benchmark's name for people."""
    return visible(name, 60).replace("_", " ")


def section_title(section: Section) -> str:
    """A benchmark's name for people, with the evaluation and the file where they are known."""
    beside = section.title.removeprefix(section.name)
    return f"{group_title(section.name)}{visible(beside, 120)}".strip()


def label(name: str, better: str = "") -> str:
    """A measure's name for people; an arrow says which direction is better."""
    known = next((key for key in sorted(LABELS, key=len, reverse=True) if f"{name}_".startswith(f"{key}_")), "")
    words = LABELS.get(known, "") + visible(name[len(known) :], 60).replace("_", " ")
    return words + {"higher": " ↑", "lower": " ↓"}.get(better, "")


def number(value: float | None, *, signed: bool = False) -> str:
    """A figure with three decimals, or fewer where it is large, with a true minus sign; a dash for none."""
    if value is None:
        return "–"
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    if not text.strip("+-0."):
        text = f"{0:.{decimals}f}"
    return text.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """An interval of a difference in words."""
    if low is None or high is None:
        return "no interval"
    return f"{number(low, signed=True)} to {number(high, signed=True)}"


def between(low: float | None, high: float | None) -> str:
    """An interval of a value in words."""
    return "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"


def chance(p_value: object) -> str:
    """A p-value in words; nothing where there is none."""
    if not isinstance(p_value, int | float) or isinstance(p_value, bool):
        return ""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def share(count: object, whole: object) -> str:
    """A count with its share in percent; nothing where it is none or zero."""
    if not isinstance(count, int) or not count:
        return ""
    return f"{count} ({count / whole:.1%})" if isinstance(whole, int) and whole else str(count)
