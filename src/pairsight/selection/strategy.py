"""What a strategy is: a frozen config that chooses, from one prompt's candidates, what to learn from."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from pairsight.config import BaseConfig
from pairsight.errors import ConfigError
from pairsight.records import QUALITY_ATTRIBUTES, Candidates, Completion, Demonstration, Dropped, PreferencePair
from pairsight.registry import strategies

Chosen = PreferencePair | list[Demonstration] | Dropped


class Strategy(BaseConfig, ABC):
    """The base of all strategies. A subclass is one file: its options as fields, and `__call__`."""

    name: ClassVar[str]
    makes_demonstrations: ClassVar[bool] = False
    """Whether it makes demonstrations, for the loss `sft`, instead of pairs."""

    @abstractmethod
    def __call__(self, candidates: Candidates) -> Chosen:
        """A pair or demonstrations, or what was dropped and why. Random choices follow from the prompt's id."""

    def inference_suffix(self) -> str:
        """The line that must end every question to a model trained on these choices; empty for most."""
        return ""

    def drop(self, candidates: Candidates, reason: str, detail: str = "") -> Dropped:
        """The prompt, left out at selection for a reason."""
        return Dropped(candidates.prompt.id, f"select/{self.name}", reason, detail)

    def too_few_scored(self, candidates: Candidates, count: int) -> Dropped:
        """The prompt, left out because too few of its completions have the scores that count."""
        return self.drop(candidates, "too_few_scored", f"{count} of {len(candidates.completions)} completions")

    def scored_pair(self, candidates: Candidates, chosen: Completion, rejected: Completion) -> PreferencePair:
        """Two completions of a prompt with what annotators said of them."""
        kept = tuple(one for one in candidates.annotations if one.completion_id in (chosen.id, rejected.id))
        return PreferencePair(candidates.prompt.id, candidates.prompt, chosen, (rejected,), self.name, kept)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy chose. Either `pairs` or `demonstrations` is empty; `dropped` has one entry per lost prompt."""

    pairs: tuple[PreferencePair, ...]
    demonstrations: tuple[Demonstration, ...]
    dropped: tuple[Dropped, ...]


def make_strategy(name: str, /, **options: object) -> Strategy:
    """The strategy called `name`, or at `file.py:Class`, with its own options.

    Raises:
        ConfigError: an unknown strategy, code that the user did not name in this call, or an option it does not have.
    """
    strategy: Strategy = strategies.get(name).parse(options, f"strategy '{name}'")
    return strategy


def choices(one: Candidates | Dropped, strategy: Strategy) -> list[PreferencePair] | list[Demonstration] | Dropped:
    """What a strategy chooses from one prompt's candidates, or why it is left out; what a recipe dropped stays so.

    Raises:
        ConfigError: the strategy makes something else than it declares.
    """
    chosen = one if isinstance(one, Dropped) else strategy(one)
    if isinstance(chosen, Dropped):
        return chosen
    if isinstance(chosen, PreferencePair) == strategy.makes_demonstrations:
        said = "demonstrations" if strategy.makes_demonstrations else "pairs"
        raise ConfigError(
            f"strategy '{strategy.name}' says that it makes {said}, and made others: see makes_demonstrations"
        )
    return [chosen] if isinstance(chosen, PreferencePair) else chosen


def choose(candidates: Iterable[Candidates | Dropped], strategy: Strategy) -> Selection:
    """Choose from every prompt's candidates.

    Args:
        candidates: what a recipe made; what it dropped already is carried along.
        strategy: what chooses.

    Raises:
        ConfigError: the strategy makes something else than it declares.
    """
    pairs, demonstrations, dropped = list[PreferencePair](), list[Demonstration](), list[Dropped]()
    for one in candidates:
        chosen = choices(one, strategy)
        if isinstance(chosen, Dropped):
            dropped.append(chosen)
        else:
            for example in chosen:
                pairs.append(example) if isinstance(example, PreferencePair) else demonstrations.append(example)
    return Selection(tuple(pairs), tuple(demonstrations), tuple(dropped))


QUALITY: Mapping[str, float] = MappingProxyType(dict.fromkeys(QUALITY_ATTRIBUTES, 1.0))
"""The weights of a total: of each attribute that says how good a completion is, 1."""


def scores_by_completion(
    candidates: Candidates, attributes: Collection[str]
) -> list[tuple[Completion, dict[str, float]]]:
    """Each completion that has text and all these attributes, with its scores, in order.

    Where several annotators scored a completion its scores are their means (ours).
    """
    found: dict[str, list[Mapping[str, float]]] = {}
    for annotation in candidates.annotations:
        if all(attribute in annotation.scores for attribute in attributes):
            found.setdefault(annotation.completion_id, []).append(annotation.scores)
    return [
        (
            completion,
            {
                name: sum(scores[name] for scores in found[completion.id]) / len(found[completion.id])
                for name in attributes
            },
        )
        for completion in candidates.completions
        if completion.id in found and completion.text.strip()
    ]


def scored_completions(candidates: Candidates, weights: Mapping[str, float]) -> list[tuple[Completion, float]]:
    """Each completion that has text and all attributes of `weights`, with its total, in order.

    Args:
        weights: attribute -> weight; with `QUALITY` the totals lie in 0…12.
    """
    return [
        (completion, sum(weight * scores[attribute] for attribute, weight in weights.items()))
        for completion, scores in scores_by_completion(candidates, weights.keys())
    ]


def best(scored: list[tuple[Completion, float]]) -> tuple[Completion, float]:
    """The completion with the highest total, the first of equals."""
    return max(scored, key=lambda one: one[1])


def normalised(text: str) -> str:
    """A text without what no reader counts as a difference: case, spacing, Unicode form, a final full stop (ours)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".").rstrip()
