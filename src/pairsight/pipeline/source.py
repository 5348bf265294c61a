"""What a build starts from: prompts to be answered, or completions that are there already."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pairsight.errors import ConfigError
from pairsight.formats.completions import read_completions
from pairsight.formats.prompts import read_prompts
from pairsight.images.source import WithImages
from pairsight.pipeline.options import BuildOptions
from pairsight.recipes.protocol import Recipe, RecipeModels, StageRunner
from pairsight.recipes.sampling import with_answers
from pairsight.records import Candidates, Dropped, Prompt
from pairsight.store.codec import encode

Made = Callable[[Recipe, RecipeModels, StageRunner], Iterable[Candidates | Dropped]]


_OF_PROMPTS = (
    "question", "sources", "questions_per_dialogue", "per_source", "strip_short_answer", "dataset_answers",
)  # fmt: skip
"""Options of `build` that say which prompts are read from `prompts`, and how."""


@dataclass(frozen=True, slots=True)
class Source:
    """Prompts (or candidates) with images, what reading dropped, and the dataset's own answers by prompt id."""

    given: WithImages[Prompt] | WithImages[Candidates]
    dropped: tuple[Dropped, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """What identifies the content, in order."""
        digest = hashlib.sha256()
        for one in self.given:
            digest.update(encode(one).encode() + b"\n")
        return digest.hexdigest()

    def prompts(self) -> Iterator[Prompt]:
        """All prompts."""
        return (one.prompt if isinstance(one, Candidates) else one for one in self.given)

    def candidates(self, recipe: Recipe, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """What the recipe makes of it, without what reading dropped; given completions go straight to its annotator.

        Raises:
            ConfigError: given completions and a recipe that makes its own.
        """
        prompts = [one for one in self.given if isinstance(one, Prompt)]
        given = [one for one in self.given if isinstance(one, Candidates)]
        if given:
            annotate = getattr(recipe, "annotate", None)
            if annotate is None:
                raise ConfigError(f"recipe '{recipe.name}' makes its own completions; --completions is for feedback")
            yield from annotate(given, models, run)
        else:
            yield from with_answers(recipe.candidates(prompts, models, run), self.answers)


def read_source(options: BuildOptions) -> Source:
    """Read what the options name, every row and image checked.

    Raises:
        DataError: a bad file, row or image.
        ConfigError: both prompts and completions, or an option of reading prompts without prompts.
    """
    if options.prompts is None:
        fields = BuildOptions.model_fields
        unused = [name for name in _OF_PROMPTS if getattr(options, name) != fields[name].default]
        if unused:
            raise ConfigError(f"{' and '.join(map(repr, unused))} choose among --prompts FILE, and there is none")
    if options.completions is not None:
        if options.prompts is not None:
            raise ConfigError("give --prompts or --completions, not both")
        completions = read_completions(
            options.completions, images=options.images, on_error=options.on_error, limit=options.limit
        )
        return Source(completions, completions.dropped)
    if options.prompts is None:
        from pairsight.images.unpacked import UnpackedImages

        return Source(WithImages((), UnpackedImages()))
    prompts = read_prompts(
        options.prompts,
        images=options.images,
        question=options.question,
        on_error=options.on_error,
        sources=options.sources,
        questions_per_dialogue=options.questions_per_dialogue,
        per_source=options.per_source,
        strip_short_answer=options.strip_short_answer,
        limit=options.limit,
        seed=options.seed,
    )
    return Source(prompts, prompts.dropped, prompts.answers if options.dataset_answers else {})
