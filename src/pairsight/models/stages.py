"""The stages that models work in: completions of prompts, and annotations of completions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pairsight.engine.stage import Call, Json, MayBeCall, Resources
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.annotation.prompt import PARSER_VERSION as ANNOTATION_PARSER_VERSION
from pairsight.models.annotation.prompt import annotation_prompt, annotation_schema
from pairsight.models.annotation.vlm_annotator import VlmAnnotator, annotated, answered, cut_short
from pairsight.models.endpoint.model import EndpointModel
from pairsight.models.load import keep
from pairsight.models.protocols import (
    COMPLETION,
    Annotator,
    Generator,
    Question,
    Sampling,
    completion_id,
    prompt_key,
    request_key,
)
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
        return self.generator.as_call(self.name, self.sampling, COMPLETION)


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
        return self.annotator.as_call(self.name)


def judging_call(
    model: EndpointModel, name: str, kind: str, options: AnnotationOptions = OURS
) -> Call[Rated, Annotation]:
    """The call that asks a judge for the scores of one completion alone, as `VlmJudge` does.

    Args:
        model: the judge behind an endpoint.
        name: the stage's name.
        kind: the scorer's kind, which the annotation carries.
        options: how the judge is asked and answers.
    """
    annotator = VlmAnnotator(model, options=options, form="json" if model.is_structured else "text")

    def ask(item: Rated) -> CompletionRequest:
        prompt, completion = item
        asked = annotation_prompt(prompt, [completion.text], annotator.form, options)
        return CompletionRequest(asked, seed=annotator.seed)

    def read(item: Rated, answer: Completion) -> Annotation | ItemError:
        from pairsight.models.scorers.vlm_judge import quality_scores

        _, completion = item
        (mark,) = answered((completion,), (0,), answer, annotator.fingerprint)
        scores = quality_scores(mark)
        if isinstance(scores, ItemError):
            return cut_short(scores, answer)
        return Annotation(completion.id, kind, dict(scores), answer.text)

    question = Question(
        Annotation, ask, read, item_name=lambda item: item[1].id, ids=lambda item: item[1].id,
        schema=lambda item: annotation_schema(1), parser_version=ANNOTATION_PARSER_VERSION,
    )  # fmt: skip
    return model.as_call(name, options.sampling, question)
