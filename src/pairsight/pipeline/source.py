"""What a build starts from: prompts, or completions that exist already, read from the files that its options name."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pairsight.config import option_facts
from pairsight.errors import ConfigError
from pairsight.formats.completions import read_completions
from pairsight.formats.prompts import make_format, read_prompts
from pairsight.images.source import WithImages
from pairsight.options import BuildOptions
from pairsight.recipes.recipe import Recipe, RecipeModels, StageRunner, with_answers
from pairsight.records import Candidates, Dropped, Prompt
from pairsight.store.encoding import encode


@dataclass(frozen=True, slots=True)
class Source:
    """What a recipe starts from.

    Attributes:
        given: prompts, or candidates whose completions exist already, with their images.
        dropped: what reading the files dropped.
        answers: the dataset's own answers by prompt id, where they are kept.
        is_read: whether it was read from the files that the options name; False where it was given in Python.
    """

    given: WithImages[Prompt] | WithImages[Candidates]
    dropped: tuple[Dropped, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    is_read: bool = False

    @property
    def sha256(self) -> str:
        """The hash of everything given, in order."""
        digest = hashlib.sha256()
        for one in self.given:
            digest.update(encode(one).encode() + b"\n")
        return digest.hexdigest()

    def prompts(self) -> Iterator[Prompt]:
        """All prompts."""
        return (one.prompt if isinstance(one, Candidates) else one for one in self.given)

    def candidates(self, recipe: Recipe, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """What the recipe makes of it, without what reading dropped; given completions are annotated only.

        Raises:
            ConfigError: completions are given and the recipe makes its own.
        """
        prompts = [one for one in self.given if isinstance(one, Prompt)]
        given = [one for one in self.given if isinstance(one, Candidates)]
        if given:
            yield from recipe.annotate(given, models, run)
        else:
            yield from with_answers(recipe.candidates(prompts, models, run), self.answers)


def read_source(options: BuildOptions) -> Source:
    """Read the files that the options name; every row and image is checked.

    Raises:
        DataError: a bad file, row or image.
        ConfigError: both prompts and completions, or an option that chooses among prompts where there are none.
    """
    if options.prompts is None:
        fields, facts = BuildOptions.model_fields, option_facts(BuildOptions)
        of_prompts = [name for name, option in facts.items() if option.needs == "prompts"]
        unused = [name for name in of_prompts if getattr(options, name) != fields[name].default]
        if unused:
            raise ConfigError(f"{' and '.join(map(repr, unused))} choose among prompts: give --prompts FILE as well")
        unread = [name for name in facts if facts[name].needs == "a file" and name in options.given()]
        if unread and options.completions is None:
            raise ConfigError(
                f"{unread[0]} changes nothing, no file is read; give --prompts or --completions, or leave it out"
            )
        if options.format is not None and options.completions is None:
            raise ConfigError("--format says how --prompts or --completions is read; give one of them as well")
    if options.distorted and options.completions is None:
        raise ConfigError("--distorted has the answers to distorted images; give --completions, those to clean ones")
    form = None if options.format is None else make_format(options.format)
    if options.completions is not None:
        if options.prompts is not None:
            raise ConfigError("give --prompts or --completions, not both")
        if options.distorted:
            return _answers(options)
        if not isinstance(options.completions, str):
            raise ConfigError("--completions SOURCE=FILE is for answers with --distorted; else give one file")
        completions = read_completions(
            options.completions, images=options.images, format=form, on_error=options.on_error, limit=options.limit
        )
        return Source(completions, completions.dropped, is_read=True)
    if options.prompts is None:
        from pairsight.images.source import UnpackedImages

        return Source(WithImages((), UnpackedImages()), is_read=True)
    prompts = read_prompts(
        options.prompts,
        images=options.images,
        format=form,
        question=options.question,
        on_error=options.on_error,
        sources=options.sources,
        questions_per_dialogue=options.questions_per_dialogue,
        per_source=options.per_source,
        complete_dialogues=options.complete_dialogues,
        strip_short_answer=options.strip_short_answer,
        limit=options.limit,
        seed=options.seed,
    )
    return Source(prompts, prompts.dropped, prompts.answers if options.dataset_answers else {}, is_read=True)


def _answers(options: BuildOptions) -> Source:
    """The candidates in files of answers to clean and to distorted images."""
    from pairsight.formats.answer_files import read_answer_files

    if options.recipe != "seva" or options.format is not None:
        what = "--format" if options.format is not None else f"recipe '{options.recipe}'"
        raise ConfigError(f"--distorted is for recipe seva and files of its authors' form, not with {what}")
    answers = read_answer_files(
        options.completions or "",
        options.distorted,
        options.images,
        on_error=options.on_error,
        limit=options.limit,
    )
    return Source(answers, answers.dropped, is_read=True)
