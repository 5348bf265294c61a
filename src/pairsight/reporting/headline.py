"""What changed, in sentences: better or worse is said only where an interval supports it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pairsight.benchmarks.results import Metric, Section, System, Verdict
from pairsight.reporting.words import CONTROLS, control_title, interval, label, number, section_title, system_title

_UNREADABLE = 0.05
"""A larger share of unreadable answers gets a warning (ours)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One measure in the headline."""

    label: str
    verdict: Verdict
    values: str
    difference: str
    interval: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """The summary of one system: the first benchmark's measures, and a sentence on each further benchmark."""

    system: str
    sentence: str
    caution: str
    findings: Mapping[Verdict, tuple[Finding, ...]]
    others: tuple[tuple[str, str], ...]


def headline(system: System) -> Headline:
    """The summary of one system, as far as its intervals support it."""
    compared = [one for one in system.sections if any(m.aligned is not None for m in one.metrics.values())]
    if not compared:
        sentence = "Not evaluated yet: the aligned model has no measures."
        return Headline(system_title(system.name), sentence, "", _by_verdict([]), ())
    first, *others = compared
    findings = [_finding(system, first, metric) for metric in first.metrics.values() if metric.aligned is not None]
    return Headline(
        system=system_title(system.name),
        sentence=_sentence(first),
        caution=_caution(compared),
        findings=_by_verdict(findings),
        others=tuple((section_title(section), _short(section)) for section in others),
    )


def control_sentences(system: System) -> list[str]:
    """For each control, which gains on the first benchmark it shares with the system."""
    if not system.sections:
        return []
    first = system.sections[0]
    gains = [metric for metric in first.metrics.values() if metric.verdict == "better"]
    sentences = []
    for name in system.controls:
        shared: list[str] = []
        absent: list[str] = []
        for metric in gains:
            other = system.control(name, first, metric.name)
            if other is not None:
                (shared if other.verdict == "better" else absent).append(label(metric.name))
        sentences.append(_control_sentence(name, shared, absent, bool(gains)))
    return sentences


def _control_sentence(name: str, shared: Sequence[str], absent: Sequence[str], any_gain: bool) -> str:
    title = control_title(name).capitalize()
    title += f" ({CONTROLS[name][1]})" if name in CONTROLS else ""
    if not any_gain:
        return f"{title}: the system has no gain to compare it with."
    if not shared and not absent:
        return f"{title}: nothing to compare."
    if name == "length_matched":
        kept = (
            f"still better at matched length: {', '.join(shared)}" if shared else "no gain is shown at matched length"
        )
        lost = f"; no longer shown: {', '.join(absent)}" if absent and shared else ""
        return f"{title}: {kept}{lost}."
    if shared:
        rest = f"; not on {', '.join(absent)}" if absent else ""
        return f"{title}: it also gains on {', '.join(shared)}, so the method alone does not explain that gain{rest}."
    return f"{title}: none of the system's gains is shown in the control."


def _by_verdict(findings: Sequence[Finding]) -> Mapping[Verdict, tuple[Finding, ...]]:
    return {verdict: tuple(f for f in findings if f.verdict == verdict) for verdict in get_args(Verdict)}


def _sentence(section: Section) -> str:
    verdicts = [metric.verdict for metric in section.metrics.values() if metric.aligned is not None]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    of = f" of {section_title(section)}" if section.file else ""
    if not better and not worse:
        return f"Neither a gain nor a loss is shown on any of {len(verdicts)} measures{of}."
    found = f"better on {better or 'none'} and worse on {worse or 'none'}"
    return f"Of {len(verdicts)} measures{of}, {found}: there the 95 % interval of the difference excludes zero."


def _caution(sections: Sequence[Section]) -> str:
    """A warning about benchmarks with many unreadable answers: their figures say little about the model."""
    named = []
    for section in sections:
        shares = [_share(metric.unparsed, metric.num_items) for metric in section.metrics.values()]
        shares += [_share(metric.unparsed_base, metric.num_items) for metric in section.metrics.values()]
        if max(shares, default=0.0) > _UNREADABLE:
            named.append(f"{max(shares):.0%} of the answers{f' to {section_title(section)}' if section.name else ''}")
    return f"The scoring rule could not read {', '.join(named)}. See the other parser's values." if named else ""


def _share(count: int | None, of: int | None) -> float:
    return count / of if count and of else 0.0


def _short(section: Section) -> str:
    """The measures that are better and worse, with differences."""
    parts = []
    for verdict in ("better", "worse"):
        named = [
            f"{label(metric.name)} {number(metric.difference, signed=True)}"
            for metric in section.metrics.values()
            if metric.verdict == verdict
        ]
        parts += [f"{verdict} on {', '.join(named)}"] if named else []
    return "; ".join(parts) or "neither a gain nor a loss is shown"


def _finding(system: System, section: Section, metric: Metric) -> Finding:
    remarks = []
    for name in system.controls:
        other = system.control(name, section, metric.name)
        if other is not None and metric.verdict == "better":
            by = number(other.difference, signed=True)
            remarks.append(f"{control_title(name)} {by} ({interval(other.low, other.high)})")
    return Finding(
        label=label(metric.name),
        verdict=metric.verdict,
        values=f"{number(metric.base)} → {number(metric.aligned)}",
        difference=number(metric.difference, signed=True),
        interval=interval(metric.low, metric.high),
        remark="; ".join(remarks),
    )
