"""What a run's `run.yaml` says of its build, read into a record: for align, reports, `inspect` and studies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pairsight.config import option_facts
from pairsight.options import BuildOptions
from pairsight.registry import NamedPiece


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """The content of a build's `run.yaml`; what is missing or in an unknown form is empty or None.

    Attributes:
        recipe: its name and its own options; the name is "" if it is missing.
        recipe_file: the `file.py:Class` that the recipe comes from; "" for ours.
        strategy: how pairs were chosen.
        strategy_file: the `file.py:Class` that the strategy comes from; "" for ours.
        options: those of `BuildOptions` that are recorded under their own names, as plain values.
        models: the names of the models that made the completions.
        fingerprints: "model", "annotator" or "writer" -> what identifies each such model.
        num_prompts: prompts given, also those that reading dropped.
        profile: what the profile says that its completions were made with; None: there was none.
    """

    recipe: NamedPiece
    recipe_file: str
    strategy: NamedPiece | None
    strategy_file: str
    options: Mapping[str, object]
    models: tuple[str, ...]
    fingerprints: Mapping[str, tuple[str, ...]]
    num_prompts: int | None
    profile: object = None

    @classmethod
    def from_plain(cls, content: object) -> Self:
        """The record in the content of a `run.yaml`."""
        plain = _mapping(content)
        strategy, num_prompts = _mapping(plain.get("strategy")), plain.get("num_prompts")
        name, own = strategy.get("name"), {key: value for key, value in strategy.items() if key != "name"}
        noted = [option for option, facts in option_facts(BuildOptions).items() if facts.recorded]
        return cls(
            recipe=NamedPiece(str(plain.get("recipe") or ""), _mapping(plain.get("options"))),
            recipe_file=str(plain.get("recipe_file") or ""),
            strategy=NamedPiece(name, own) if isinstance(name, str) else None,
            strategy_file=str(plain.get("strategy_file") or ""),
            options={option: plain[option] for option in noted if option in plain},
            models=_texts(plain.get("model")),
            fingerprints={role: _texts(plain.get(f"{role}_fingerprint")) for role in ("model", "annotator", "writer")},
            num_prompts=num_prompts if isinstance(num_prompts, int) else None,
            profile=plain.get("profile_options"),
        )

    @property
    def recipe_name(self) -> str:
        """The recipe as the verbs take it: its name or `file.py:Class`; "" if it is missing."""
        return self.recipe_file or self.recipe.name

    @property
    def built_with(self) -> NamedPiece | None:
        """The strategy as the verbs take it: its name or `file.py:Class`, and its options; None if it is missing."""
        if self.strategy is None:
            return None
        return NamedPiece(self.strategy_file or self.strategy.name, self.strategy.options)


def _mapping(value: object) -> Mapping[str, object]:
    return {str(name): one for name, one in value.items()} if isinstance(value, Mapping) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),) if value else ()
