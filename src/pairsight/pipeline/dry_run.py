"""What a run will do and take, from its config alone: stages, counts, tokens, cost and memory, all of it estimates.

Neither weights nor data need be here: what is missing is named, and what is assumed in its place is said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.errors import ConfigError, ModelError, PairsightError, one_line
from pairsight.models.endpoint.model import is_endpoint, parse_endpoint
from pairsight.models.folders import local_folder
from pairsight.options import BuildOptions, EvaluateOptions
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.build import BuildChoice
from pairsight.pipeline.models import find_profile
from pairsight.pipeline.run import SHAPES, RunConfig, find_config
from pairsight.recipes.workload import Assumed, Roles, Work
from pairsight.registry import NamedPiece
from pairsight.training.ranks.launch import launched

if TYPE_CHECKING:
    from pairsight.training.forecast.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Estimate:
    """A stage's work in all.

    Attributes:
        work: the stage.
        image_tokens: tokens of the images that it is shown, of one item; None where nobody counted them.
        cost: of all, None where the model is not paid for, or its price is not known.
        is_paid: whether it is an endpoint's.
    """

    work: Work
    image_tokens: int | None
    cost: float | None
    is_paid: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens read, those of images among them where they are known."""
        return self.work.count * (self.work.prompt_tokens + (self.image_tokens or 0))

    @property
    def completion_tokens(self) -> int:
        """Tokens written."""
        return self.work.count * self.work.completion_tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """A benchmark's questions to all models: their number, and whether they were counted or assumed.

    `count` is None where neither its file nor an assumption says it.
    """

    name: str
    count: int | None
    is_counted: bool


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run will do and take.

    Attributes:
        config: the run's.
        missing: files, folders and models that are not here, and that the run will need.
        num_prompts: prompts of the build, counted or assumed; 0 where the writer writes them.
        recipe, strategy: their names.
        stages: of the build.
        align: the training; None without one.
        num_examples: that it will be on.
        examples: what they are.
        forecast: of its memory; None where `no_forecast` says why.
        asked: the evaluation's benchmarks.
    """

    config: RunConfig
    missing: tuple[str, ...]
    num_prompts: int
    recipe: str
    strategy: str
    stages: tuple[Estimate, ...]
    align: AlignSpec | None = None
    num_examples: int = 0
    examples: str = "pairs"
    forecast: "Forecast | None" = None
    no_forecast: str = ""
    asked: tuple[Asked, ...] = ()


def dry_run(config: RunConfig, *, memory: float | None = None) -> DryRun:
    """Estimate a run.

    Args:
        config: of the run.
        memory: GiB of the GPU that the training is planned for; None: the config's own, else the device that is here.

    Raises:
        PairsightError: an option that is wrong, data that are here and bad, or data that are not here and of which no
            `estimate` says how many there are.
    """
    assumed = config.estimate
    choice = BuildChoice.parse(config.options_of("build"))
    options, recipe, strategy = choice.options, choice.recipe, choice.strategy
    missing = _missing(config, options)
    if _all_here(missing, config, options):
        num_prompts = len(config.build_spec().source.given)
    else:
        num_prompts = min(assumed.num_prompts or 0, options.limit or assumed.num_prompts or 0)
    made = NamedPiece(recipe.name, recipe.to_plain())
    align = (
        None if config.align is None else AlignSpec.parse(config.options_of("align"), options.recipe, strategy, made)
    )
    if align is not None:
        launched().refuse_other_count(align.options.devices)
    if config.evaluate is not None and config.align is None and not config.evaluate.get("adapters"):
        raise ConfigError("evaluate needs an align part, or adapters of its own, to compare with the base")
    asked = tuple(_asked(config)) if config.evaluate is not None else ()
    models = () if options.completions is not None else options.models  # nothing is generated where they are given
    roles = Roles(models, options.annotator or "", options.writer or "", options.annotation)
    work = recipe.work(roles, assumed, num_prompts)
    texts = num_prompts or max((one.count for one in work if one.unit == "questions"), default=0)
    num_examples = assumed.num_examples or max(1, round(texts * assumed.kept))
    forecast, why = None, ""
    if align is not None:
        num_examples = min(num_examples, align.options.limit or num_examples)
        try:
            forecast = _forecast(config, align, num_examples, strategy.makes_demonstrations, memory)
        except PairsightError as error:
            why = one_line(error)
    image = None if forecast is None else round(forecast.tokens.image)
    stages = tuple(_estimate(one, options, assumed, image) for one in work)
    examples = "demonstrations" if align is not None and _is_sft(align) else "pairs"
    return DryRun(
        config, missing, num_prompts, recipe.name, strategy.name, stages, align, num_examples, examples, forecast, why,
        asked,
    )  # fmt: skip


def _missing(config: RunConfig, options: BuildOptions) -> tuple[str, ...]:
    """The files, folders and models of the build that are paths and not here."""
    named: list[str] = []
    for given in (options.prompts, options.completions, options.images):
        named += [given] if isinstance(given, str) else list((given or {}).values())
    found = [name for name in named if not Path(name).exists()]
    for model in (config.model, *options.models, options.annotator, options.writer):
        if model is not None and not is_endpoint(model):
            try:
                local_folder(model)
            except ModelError:
                found.append(model)
    return tuple(dict.fromkeys(found))


def _all_here(missing: Sequence[str], config: RunConfig, options: BuildOptions) -> bool:
    """Whether the build's files can be read; where not, what is assumed in their place must be said."""
    if not missing:
        return True
    has_input = options.prompts is not None or options.completions is not None
    if has_input and config.estimate.num_prompts is None:
        config.build_spec()  # which says what is missing
        raise ConfigError(f"{', '.join(missing)} is not here: say estimate.num_prompts, how many prompts there are")
    return False


def _asked(config: RunConfig) -> Iterator[Asked]:
    from pairsight.benchmarks.tasks import load_named, make_tasks

    options = EvaluateOptions.parse(config.options_of("evaluate"), "evaluate")
    assumed = config.estimate.questions
    for task in make_tasks(options.benchmarks, options.benchmark_options, temperature=options.temperature):
        if task.path.exists():
            loaded, _ = load_named(task, options.limit)
            yield Asked(task.name, sum(map(len, loaded.groups)), is_counted=True)
        else:
            count = assumed.get(task.name)
            yield Asked(task.name, count if count is None else min(count, options.limit or count), is_counted=False)


def _is_sft(align: AlignSpec) -> bool:
    return align.training.loss_names == ("sft",)


def _forecast(
    config: RunConfig, align: AlignSpec, num_examples: int, demonstrations: bool, memory: float | None
) -> "Forecast":
    from pairsight.training.forecast.fake_training import Device
    from pairsight.training.forecast.shapes import BlankImages, Made, folder_of, forecast_made

    assumed = config.estimate
    shape = None if config.shape is None else find_config(config.shape, SHAPES, ".json")
    rejected = 0 if demonstrations or _is_sft(align) else 1
    examples = Made(num_examples, assumed.question_tokens, assumed.completion_tokens, rejected)
    images = BlankImages(assumed.image_width, assumed.image_height)
    device = Device.of(memory or assumed.gpu_memory)
    named = align.options.profile or config.options_of("build").get("profile")
    profile = None if named is None else find_profile(named, ())
    with folder_of(align.options.model, shape) as folder:
        return forecast_made(folder, align.training, examples, images, device, profile=profile)


def _estimate(work: Work, options: BuildOptions, assumed: Assumed, image: int | None) -> Estimate:
    """A stage's tokens, and what they cost where its model is an endpoint's."""
    _, marked, name = work.by.rpartition("endpoint:")
    if not marked:
        return Estimate(work, image if work.images else 0, None, is_paid=False)
    model, _ = parse_endpoint(f"endpoint:{name}")
    seen = work.images * _endpoint_tokens(options, assumed)
    price = options.calls.prices.get(model)
    plain = Estimate(work, seen, None, is_paid=True)
    cost = None if price is None else price.cost(plain.prompt_tokens, plain.completion_tokens)
    return Estimate(work, seen, cost, is_paid=True)


def _endpoint_tokens(options: BuildOptions, assumed: Assumed) -> int:
    """About the tokens of an image as it is sent; as a run's budget counts them before it is."""
    from pairsight.models.endpoint.messages import PIXELS_PER_TOKEN

    longest = max(assumed.image_width, assumed.image_height)
    scale = min(1.0, (options.endpoint.max_image_side or longest) / longest)
    return round(assumed.image_width * scale) * round(assumed.image_height * scale) // PIXELS_PER_TOKEN + 85
