"""How an annotator, or a judge of the kind `vlm`, is asked and answers; guide and prompt may be a user's own."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from pairsight.config import BaseConfig, read_yaml
from pairsight.models.protocols import Sampling
from pairsight.models.wording import has_placeholder, read_wording
from pairsight.records import ATTRIBUTES

REQUIRED = ("question", "completions")
OPTIONAL = ("task", "guide", "form", "count")


class AnnotationOptions(BaseConfig):
    """How annotations are asked for. It may be given as the name of a YAML file that holds it."""

    guide: str | None = Field(
        None, description="the labelling guide instead of ours: a .txt or .md file, or a text of several lines"
    )
    prompt: str | None = Field(
        None,
        description="the prompt around it, likewise, with the placeholders {question} and {completions}, and {guide}, "
        "{form} (of the answer), {task} (our first paragraph) and {count} (of completions) where they are wanted",
    )
    shuffle: bool = Field(
        True, description="show completions in an order drawn by seed; false: in the order they were sampled in"
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="of annotations; 0 is greedy")
    max_new_tokens: int = Field(
        1024, ge=1, description="longest annotation in tokens, thinking included: a reasoning model needs 8192 or more"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_a_file(cls, values: Any) -> Any:
        return read_yaml(values) if isinstance(values, str) else values

    @field_validator("guide")
    @classmethod
    def _is_a_guide(cls, value: str | None) -> str | None:
        return None if value is None else read_wording(value)

    @field_validator("prompt")
    @classmethod
    def _has_its_placeholders(cls, value: str | None) -> str | None:
        return None if value is None else read_wording(value, REQUIRED, OPTIONAL)

    @model_validator(mode="after")
    def _asks_for_scores(self) -> Self:
        if self.prompt is None:
            return self
        if self.guide is not None and not has_placeholder(self.prompt, "guide"):
            raise ValueError("guide changes nothing: prompt has no {guide}; put it where the guide goes")
        said = f"{self.prompt} {self.guide or ''}".lower()
        if not has_placeholder(self.prompt, "form") and (missing := [name for name in ATTRIBUTES if name not in said]):
            raise ValueError(f"prompt must hold {{form}}, or itself ask for {', '.join(missing)}, each 0 to 4")
        return self

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        return Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)

    def wording(self) -> str:
        """What differs from our own way of asking, apart from sampling, as JSON; "" by default."""
        own = self.model_dump_json(include={"guide", "prompt", "shuffle"}, exclude_defaults=True)
        return "" if own == "{}" else own


OURS = AnnotationOptions()
"""Our guide, our prompt, shuffled, greedy."""
