"""The stages that models work in: completions of prompts, and annotations of completions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from pairsight.engine.stage import Call, Json, Resources
from pairsight.models.endpoint import EndpointModel
from pairsight.models.protocols import Annotator, Generator, Sampling
from pairsight.models.requests import completion_id, prompt_key, request_key
from pairsight.records import Annotation, Candidates, Completion, CompletionRequest, ItemError
from pairsight.store.keys import shared_part


@runtime_checkable
class _Loads(Protocol):
    def load(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class GenerateCompletions:
    """A stage: completion requests in, completions out. Batches of whole prompts share their prefill.

    The key holds the model's fingerprint, the prompt as the model sees it, sampling, seed and sample index; ids do not
    count, so use `named_for` where two prompts may have the same content.
    """

    generator: Generator
    sampling: Sampling
    batch_size: int = 64
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
        if isinstance(self.generator, _Loads):
            self.generator.load()

    def process(self, items: Sequence[CompletionRequest]) -> Iterable[Completion | ItemError]:
        """One completion or error per request."""
        return self.generator.generate(items, self.sampling)

    def close(self) -> None:
        """Free the weights."""
        if isinstance(self.generator, _Loads):
            self.generator.close()

    def as_call(self) -> Call[CompletionRequest, Completion] | None:
        """The paid call that does the same, where the generator is behind an endpoint."""
        return (
            self.generator.completions(self.sampling, self.name) if isinstance(self.generator, EndpointModel) else None
        )


@dataclass(frozen=True)
class AnnotateCandidates:
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
        if isinstance(self.annotator, _Loads):
            self.annotator.load()

    def process(self, items: Sequence[Candidates]) -> Iterable[Candidates | ItemError]:
        """The annotated candidates, or why a prompt is dropped."""
        if isinstance(self.annotator, BatchAnnotator):
            rated = self.annotator.annotate_batch(items)
        else:
            rated = [self.annotator.annotate(item.prompt, item.completions) for item in items]
        return [annotated(item, marks) for item, marks in zip(items, rated, strict=True)]

    def close(self) -> None:
        """Free the weights."""
        if isinstance(self.annotator, _Loads):
            self.annotator.close()

    def as_call(self) -> Call[Candidates, Candidates] | None:
        """The paid call that does the same, where the annotator is a model behind an endpoint."""
        from pairsight.models.endpoint_stages import annotation_call
        from pairsight.models.vlm_annotator import VlmAnnotator

        annotator = self.annotator
        if not isinstance(annotator, VlmAnnotator) or not isinstance(annotator.generator, EndpointModel):
            return None
        return annotation_call(annotator, annotator.generator, self.name)


@runtime_checkable
class BatchAnnotator(Protocol):
    """An annotator that rates several prompts' completions at once faster than one by one."""

    def annotate_batch(self, items: Sequence[Candidates]) -> list[list[Annotation | ItemError]]:
        """What `annotate` gives for each."""
        ...


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
