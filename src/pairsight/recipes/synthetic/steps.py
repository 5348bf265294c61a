"""The steps of the synthetic recipe: each is a stage for all texts, so that one model is loaded at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pairsight.errors import ConfigError
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.thinking import without_thinking
from pairsight.recipes.recipe import RecipeModels, StageRunner
from pairsight.recipes.synthetic.options import SyntheticOptions
from pairsight.recipes.synthetic.texts import (
    INSTRUCTION_PROMPT,
    SCENE_PROMPT,
    first_line,
    instruction_request,
    near_duplicates,
    parse_instruction,
    parse_scenes,
    rank_images,
    scene_requests,
    slug,
    unusable,
    with_selected,
)
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    CompletionRequest,
    Dropped,
    ImageCandidate,
    ItemError,
    Message,
    Prompt,
)
from pairsight.seeds import derived_seed
from pairsight.selection.strategy import normalised


@dataclass(slots=True)
class Item:
    """A text on its way: what has been made of it, and why it goes no further."""

    text: Prompt
    images: tuple[ImageCandidate, ...] = ()
    prompt: Prompt | None = None
    completions: tuple[Completion, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    dropped: Dropped | None = None
    parts_dropped: list[Dropped] = field(default_factory=list)

    def drop(self, stage: str, reason: str, detail: str = "") -> None:
        """Leave the text out."""
        self.dropped = Dropped(self.text.id, stage, reason, detail)

    def drop_part(self, item_id: str, stage: str, reason: str, detail: str = "") -> None:
        """Leave one image or completion out."""
        self.parts_dropped.append(Dropped(item_id, stage, reason, detail))


class Steps:
    """The recipe at work on one run.

    Args:
        config: the recipe.
        models: its models and the run's blobs.
        run: keeps every result.
    """

    def __init__(self, config: SyntheticOptions, models: RecipeModels, run: StageRunner) -> None:
        self.config = config
        self.models = models
        self.run = run
        self.blobs = models.needed_blobs(config.name)
        self.not_written: list[Dropped] = []

    def candidates(self, prompts: Sequence[Prompt]) -> Iterator[Candidates | Dropped]:
        """All steps, then each text's outcome in order, followed by what was left out of it."""
        items = [Item(text) for text in prompts or self.write_texts()]
        self.drop_near_duplicates(items)
        self.draw_images(alive(items))
        self.score_images(alive(items))
        self.select_images(items)
        self.write_instructions(alive(items))
        self.complete(alive(items))
        self.score_completions(alive(items))
        if self.config.keep_loaded:
            from pairsight.models.load import forget_all

            forget_all()
        for item in items:
            if item.dropped is None and item.prompt is not None:
                yield Candidates(item.prompt, item.completions, item.annotations, item.images)
            elif item.dropped is not None:
                yield item.dropped
            yield from item.parts_dropped
        yield from self.not_written

    def write_texts(self) -> list[Prompt]:
        """Text-to-image prompts by the writer, their ids `topic-n`."""
        config = self.config
        wording = config.scene_prompt or SCENE_PROMPT
        requests = list(scene_requests(config.topics, config.scenes_per_topic, config.seed, wording))
        texts: list[Prompt] = []
        counts = dict.fromkeys(config.topics, 0)
        for request, result in zip(requests, self._written(requests, max_new_tokens=2048), strict=True):
            if isinstance(result, ItemError):
                self.not_written.append(Dropped(request.prompt.id, "texts", result.reason, result.detail))
                continue
            topic = request.prompt.source
            for scene in parse_scenes(result.text)[: config.scenes_per_topic - counts[topic]]:
                counts[topic] += 1
                texts.append(Prompt(f"{slug(topic)}-{counts[topic]}", (Message("user", scene),), topic))
        if not texts:
            raise ConfigError("the writer gave no list of scenes: use another writer, or --prompts FILE")
        return texts

    def drop_near_duplicates(self, items: Sequence[Item]) -> None:
        """Leave out texts that almost repeat an earlier one."""
        found = near_duplicates([item.text.question for item in items], self.config.near_duplicate_threshold)
        for item, earlier in zip(items, found, strict=True):
            if earlier is not None:
                item.drop("texts", "near_duplicate", f"of {items[earlier].text.id}: {items[earlier].text.question:.80}")

    def draw_images(self, items: Sequence[Item]) -> None:
        """One image per guidance scale; scale by scale, so that batches share it."""
        from pairsight.models.images.diffusion import GenerateImages, ImageRequest

        config = self.config
        stage = GenerateImages(
            config.image_generator,
            self.blobs,
            num_inference_steps=config.num_inference_steps,
            size=config.image_size,
            keep_loaded=config.keep_loaded,
        )
        requests = [
            ImageRequest(item.text.id, item.text.question, scale, self._image_seed(item.text, scale))
            for scale in config.guidance_scales
            for item in items
        ]
        results = list(self.run(stage, requests))
        for index, item in enumerate(items):
            own = results[index :: len(items)]
            item.images = tuple(one for one in own if isinstance(one, ImageCandidate))
            for scale, one in zip(config.guidance_scales, own, strict=True):
                if isinstance(one, ItemError):
                    item.drop_part(f"{item.text.id} at guidance {scale:g}", "generate_images", one.reason, one.detail)
            if not item.images:
                item.drop("generate_images", "no_image", f"none of {len(own)} images can be used")

    def score_images(self, items: Sequence[Item]) -> None:
        """Every image by every image scorer, a scorer at a time."""
        from pairsight.models.scorers.stages import ScoreImages

        for name in self.config.image_scorers:
            stage = ScoreImages(name, self.blobs, keep_loaded=self.config.keep_loaded)
            pairs = [(item.text.question, one.image) for item in items for one in item.images]
            results = iter(self.run(stage, pairs))
            for item in items:
                scored = []
                for one in item.images:
                    result = next(results)
                    if isinstance(result, ItemError):
                        item.drop_part(
                            f"{item.text.id} {one.image.sha256[:12]}", stage.name, result.reason, result.detail
                        )
                        scored.append(one)
                    else:
                        number = next(iter(result.scores.values()))
                        scored.append(replace(one, scores={**one.scores, stage.kind: number}))
                item.images = tuple(scored)

    def select_images(self, items: Sequence[Item]) -> None:
        """The best image of each text by the first scorer; an image is used once in a run."""
        from pairsight.models.scorers.names import scorer_kind

        first = scorer_kind(self.config.image_scorers[0])
        used: set[str] = set()
        for item in alive(items):
            ranked = rank_images(item.images, first)
            fresh = rank_images(item.images, first, seen=used)
            if not ranked:
                item.drop("select_image", "no_score", f"'{first}' scored none of {len(item.images)} images")
            elif not fresh:
                item.drop("select_image", "seen_image", "every image was used for an earlier text")
            else:
                best = item.images[fresh[0]]
                threshold = self.config.min_image_score
                if threshold is not None and best.scores[first] < threshold:
                    item.drop("select_image", "image_threshold", f"{best.scores[first]:g} is below {threshold:g}")
                    continue
                used.add(best.image.sha256)
                item.images = with_selected(item.images, fresh[0])

    def write_instructions(self, items: Sequence[Item]) -> None:
        """The question about each selected image: one for all, or written."""
        config = self.config
        selected = [next(one for one in item.images if one.selected).image for item in items]
        if config.instruction is not None:
            for item, image in zip(items, selected, strict=True):
                item.prompt = Prompt(item.text.id, (Message("user", config.instruction, (image,)),), item.text.source)
            return
        sees = config.instruction_input == "image_and_prompt"
        wording = config.instruction_prompt or INSTRUCTION_PROMPT
        read = parse_instruction if config.instruction_prompt is None else first_line
        requests = [
            instruction_request(item.text, image if sees else None, config.seed, wording)
            for item, image in zip(items, selected, strict=True)
        ]
        for item, image, result in zip(items, selected, self._written(requests, max_new_tokens=128), strict=True):
            if isinstance(result, ItemError):
                item.drop("instruction", result.reason, result.detail)
                continue
            question = read(result.text)
            if question is None:
                item.drop("instruction", "no_question", f"the writer said: {result.text:.80}")
            else:
                item.prompt = Prompt(item.text.id, (Message("user", question, (image,)),), item.text.source)

    def complete(self, items: Sequence[Item]) -> None:
        """One completion of each model; sample_index k is the k-th model's."""
        sampling = Sampling(temperature=self.config.temperature, max_new_tokens=self.config.max_new_tokens)
        made: list[list[Completion | ItemError]] = [[] for _ in items]
        for index, generator in enumerate(self.models.generators):
            requests = [CompletionRequest(prompt, index, self._seed(prompt, index)) for prompt in prompts_of(items)]
            for own, result in zip(made, self._complete(generator, requests, sampling), strict=True):
                own.append(result)
        for item, own in zip(items, made, strict=True):
            item.completions = tuple(self._usable(item, own))
            distinct = {normalised(one.text) for one in item.completions}
            if len(distinct) < 2:
                item.drop("completions", "too_few_distinct", f"{len(distinct)} distinct of {len(own)} completions")

    def score_completions(self, items: Sequence[Item]) -> None:
        """Every completion by every completion scorer, a scorer at a time; the first scorer's come first."""
        from pairsight.models.scorers.stages import ScoreCompletions

        for index, name in enumerate(self.config.completion_scorers):
            stage = ScoreCompletions(
                name,
                self.blobs,
                keep_loaded=self.config.keep_loaded,
                endpoint=self.models.endpoint,
                annotation=self.models.annotation,
            )
            rated = [
                (prompt, one) for item, prompt in zip(items, prompts_of(items), strict=True) for one in item.completions
            ]
            results = iter(self.run(stage, rated))
            for item in items:
                found = [(one, next(results)) for one in item.completions]
                good = tuple(result for _, result in found if not isinstance(result, ItemError))
                for one, result in found:
                    if isinstance(result, ItemError):
                        item.drop_part(one.id, stage.name, result.reason, result.detail)
                item.annotations += good
                if index == 0 and len(good) < 2:
                    item.drop(stage.name, "too_few_scored", f"{len(good)} of {len(found)} completions")

    def _usable(self, item: Item, made: Sequence[Completion | ItemError]) -> Iterator[Completion]:
        assert item.prompt is not None
        for index, one in enumerate(made):
            if isinstance(one, ItemError):
                item.drop_part(f"{item.text.id}:{index}", "completions", one.reason, one.detail)
                continue
            reason = unusable(one.text, item.prompt.question)
            if reason is None:
                yield one
            else:
                item.drop_part(one.id, "completions", reason, f"{one.model}: {one.text:.80}")

    def _written(self, requests: Sequence[CompletionRequest], max_new_tokens: int) -> Iterator[Completion | ItemError]:
        """The writer's texts without its thinking."""
        assert self.models.writer is not None
        longest = self.config.writer_max_new_tokens or max_new_tokens
        sampling = Sampling(temperature=self.config.writer_temperature, max_new_tokens=longest)
        for one in self._complete(self.models.writer, requests, sampling):
            said = without_thinking(one.text) if isinstance(one, Completion) else None
            if isinstance(one, Completion) and said is None:
                reason = "length" if one.finish_reason == "length" else "unfinished_thinking"
                detail = f"still thinking after {longest} tokens at most; raise writer_max_new_tokens: {one.text:.80}"
                yield ItemError(reason, detail, retryable=False)
            else:
                yield replace(one, text=said) if isinstance(one, Completion) and said is not None else one

    def _complete(
        self, generator: Generator, requests: Sequence[CompletionRequest], sampling: Sampling
    ) -> Iterator[Completion | ItemError]:
        """The completions under their own requests' ids: two requests with the same content share one result."""
        from pairsight.models.protocols import named_for
        from pairsight.models.stages import GenerateCompletions

        stage = GenerateCompletions(generator=generator, sampling=sampling, keep_loaded=self.config.keep_loaded)
        results = self.run(stage, requests)
        for request, result in zip(requests, results, strict=True):
            yield result if isinstance(result, ItemError) else named_for(result, request)

    def _seed(self, prompt: Prompt, index: int) -> int:
        return derived_seed("synthetic", self.config.seed, prompt.id, index) if self.config.temperature > 0 else 0

    def _image_seed(self, text: Prompt, scale: float) -> int:
        own = f"{scale:g}" if self.config.seed_mode == "per_image" else "shared"
        return derived_seed("image", self.config.seed, text.id, own)


def alive(items: Sequence[Item]) -> list[Item]:
    """The items that were not dropped."""
    return [item for item in items if item.dropped is None]


def prompts_of(items: Sequence[Item]) -> list[Prompt]:
    """The items' prompts, all of which have one by now."""
    return [item.prompt for item in items if item.prompt is not None]
