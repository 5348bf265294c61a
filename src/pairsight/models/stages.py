"""The stages that models work in: completions of prompts, and annotations of completions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pairsight.engine.stage import Call, Json, MayBeCall, Resources
from pairsight.models.annotation.prompt import PARSER_VERSION as ANNOTATION_PARSER_VERSION
from pairsight.models.annotation.prompt import annotation_prompt, annotation_schema, shown_order
from pairsight.models.annotation.vlm_annotator import VlmAnnotator, answered
from pairsight.models.endpoint.messages import ENDINGS_WITHOUT_TEXT
from pairsight.models.endpoint.model import PARSER_VERSION, EndpointCall, EndpointModel
from pairsight.models.load import keep
from pairsight.models.protocols import Annotator, Generator, Sampling, completion_id, prompt_key, request_key
from pairsight.models.scorers.base import Rated
from pairsight.records import Annotation, Candidates, Completion, CompletionRequest, ItemError
from pairsight.store.encoding import shared_part


@dataclass(frozen=True)
class GenerateCompletions(MayBeCall):
    """A stage: completion requests in, completions out. Batches of complete prompts share their prefill.

    The key holds the model's fingerprint, the prompt as the model sees it, sampling, seed and sample index; ids do not
    count, so use `named_for` where two prompts may have the same content.

    Args:
        keep_loaded: leave the weights in memory after the stage, until `forget_all`.
    """

    generator: Generator
    sampling: Sampling
    batch_size: int = 64
    keep_loaded: bool = False
    resources: Resources = field(default_factory=lambda: Resources(num_gpus=1.0))
    name: str = "generate"
    version: int = 1
    output: type[Completion] = Completion

    def key(self, item: CompletionRequest) -> Mapping[str, Json]:
        """All that determines the completion."""
        return {**self._same_for_all, **request_key(item)}

    @cached_property
    def _same_for_all(self) -> Mapping[str, Json]:
        return shared_part({"model": self.generator.fingerprint, "sampling": self.sampling.to_plain()})

    def item_id(self, item: CompletionRequest) -> str:
        """`PROMPT:SAMPLE`."""
        return completion_id(item)

    def setup(self) -> None:
        """Load the weights, where the generator has any."""
        self.generator.load()
        if self.keep_loaded:
            keep(self.generator)

    def process(self, items: Sequence[CompletionRequest]) -> Iterable[Completion | ItemError]:
        """One completion or error per request."""
        return self.generator.generate(items, self.sampling)

    def close(self) -> None:
        """Free the weights, unless they are kept."""
        if not self.keep_loaded:
            self.generator.close()

    def as_call(self) -> Call[CompletionRequest, Completion] | None:
        """The paid call that does the same, where the generator is behind an endpoint."""
        return (
            self.generator.completions(self.sampling, self.name) if isinstance(self.generator, EndpointModel) else None
        )


@dataclass(frozen=True)
class AnnotateCandidates(MayBeCall):
    """A stage: candidates in, the same candidates with the annotations of those completions that could be rated.

    Fewer than two valid annotations (one, where there is one completion) make the prompt an `ItemError`
    "too_few_annotations"; so does an annotator's own error for all of them, under its own reason.
    """

    annotator: Annotator
    batch_size: int = 16
    resources: Resources = field(default_factory=lambda: Resources(num_gpus=1.0))
    name: str = "annotate"
    version: int = 1
    output: type[Candidates] = Candidates

    def key(self, item: Candidates) -> Mapping[str, Json]:
        """All that determines the annotations and the ids in them."""
        return {
            "annotator": self.annotator.fingerprint,
            "id": item.prompt.id,
            "prompt": prompt_key(item.prompt),
            "completions": [[completion.id, completion.text] for completion in item.completions],
        }

    def item_id(self, item: Candidates) -> str:
        """The prompt's id."""
        return item.prompt.id

    def setup(self) -> None:
        """Load the weights, where the annotator has any."""
        self.annotator.load()

    def process(self, items: Sequence[Candidates]) -> Iterable[Candidates | ItemError]:
        """The annotated candidates, or why a prompt is dropped."""
        rated = self.annotator.annotate_batch(items)
        return [annotated(item, marks) for item, marks in zip(items, rated, strict=True)]

    def close(self) -> None:
        """Free the weights."""
        self.annotator.close()

    def as_call(self) -> Call[Candidates, Candidates] | None:
        """The paid call that does the same, where the annotator is a model behind an endpoint."""
        annotator = self.annotator
        if not isinstance(annotator, VlmAnnotator) or not isinstance(annotator.generator, EndpointModel):
            return None
        return annotation_call(annotator, annotator.generator, self.name)


def annotated(item: Candidates, marks: Sequence[Annotation | ItemError]) -> Candidates | ItemError:
    """The candidates with their valid annotations; an error when there are too few."""
    valid = tuple(mark for mark in marks if isinstance(mark, Annotation))
    errors = [mark for mark in marks if isinstance(mark, ItemError)]
    if len(valid) >= min(2, max(1, len(item.completions))):
        return replace(item, annotations=valid)
    if errors and len({error.reason for error in errors}) == 1 and not valid:
        return errors[0]
    detail = f"{len(valid)} of {len(item.completions)} completions were rated; {errors[0].detail if errors else ''}"
    return ItemError("too_few_annotations", detail, retryable=False)


def annotation_call(annotator: VlmAnnotator, model: EndpointModel, name: str) -> EndpointCall[Candidates, Candidates]:
    """The call that asks for the annotation of all completions of a prompt, and reads it with the same parser.

    Args:
        annotator: how it is asked: sampling, order, form.
        model: the model behind an endpoint; asked for JSON of the annotation's schema where its service offers that.
        name: the stage's name.
    """

    def order(item: Candidates) -> tuple[int, ...]:
        return shown_order(len(item.completions), annotator.seed, item.prompt.id)

    def ask(item: Candidates) -> CompletionRequest:
        texts = [item.completions[index].text for index in order(item)]
        return CompletionRequest(annotation_prompt(item.prompt, texts, annotator.form), seed=annotator.seed)

    def read(item: Candidates, answer: Completion) -> Candidates | ItemError:
        rated = annotated(item, answered(item.completions, order(item), answer, annotator.fingerprint))
        return _cut_short(rated, answer) if isinstance(rated, ItemError) else rated

    def ids(item: Candidates) -> Json:
        return [item.prompt.id, *(completion.id for completion in item.completions)]

    return EndpointCall(
        name, 1, PARSER_VERSION * 1000 + ANNOTATION_PARSER_VERSION, Candidates, model, annotator.sampling,
        ask=ask, read=read, ids=ids, item_name=lambda item: item.prompt.id,
        schema=lambda item: annotation_schema(len(item.completions)) if annotator.form == "json" else None,
    )  # fmt: skip


def judging_call(model: EndpointModel, name: str, kind: str) -> EndpointCall[Rated, Annotation]:
    """The call that asks a judge for the scores of one completion alone, as `VlmJudge` does.

    Args:
        model: the judge behind an endpoint.
        name: the stage's name.
        kind: the scorer's kind, which the annotation carries.
    """
    annotator = VlmAnnotator(model, form="json" if model.is_structured else "text")

    def ask(item: Rated) -> CompletionRequest:
        prompt, completion = item
        return CompletionRequest(annotation_prompt(prompt, [completion.text], annotator.form), seed=annotator.seed)

    def read(item: Rated, answer: Completion) -> Annotation | ItemError:
        from pairsight.models.scorers.vlm_judge import quality_scores

        _, completion = item
        (mark,) = answered((completion,), (0,), answer, annotator.fingerprint)
        scores = quality_scores(mark)
        if isinstance(scores, ItemError):
            return _cut_short(scores, answer)
        return Annotation(completion.id, kind, dict(scores), answer.text)

    return EndpointCall(
        name, 1, PARSER_VERSION * 1000 + ANNOTATION_PARSER_VERSION, Annotation, model, annotator.sampling,
        ask=ask, read=read, ids=lambda item: item[1].id, item_name=lambda item: item[1].id,
        schema=lambda item: annotation_schema(1),
    )  # fmt: skip


def _cut_short(error: ItemError, answer: Completion) -> ItemError:
    """The error by the name of the answer's ending, where that explains it."""
    if answer.finish_reason not in ENDINGS_WITHOUT_TEXT:
        return error
    detail = f"the answer ended by '{answer.finish_reason}', {error.detail}"
    return ItemError(answer.finish_reason, detail, retryable=False)
