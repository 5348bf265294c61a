"""A vision-language model as annotator: any `Generator`, asked with the annotation prompt, read by its parser."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from pairsight.engine.stage import Call
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.annotation.prompt import (
    PARSER_VERSION,
    READING_VERSION,
    Form,
    annotation_prompt,
    annotation_schema,
    parse_annotation,
    shown_order,
)
from pairsight.models.endpoint.messages import ENDINGS_WITHOUT_TEXT
from pairsight.models.protocols import Annotator, Generator, Question
from pairsight.models.thinking import without_thinking
from pairsight.records import (
    ATTRIBUTES,
    Annotation,
    Candidates,
    Completion,
    CompletionRequest,
    ItemError,
    Message,
    Prompt,
)

_PROBE = Prompt("", (Message("user", "?"),))


class VlmAnnotator(Annotator):
    """Rates all completions of a prompt in one request, in an order shuffled by seed.

    Args:
        generator: the model that rates; it sees the prompt's own images.
        options: a user's own guide or prompt, the order of completions, and how it answers; default: ours, greedy, at
            most 1024 tokens.
        seed: of the order in which completions are shown, and of sampling.
        form: "json" asks for a JSON object; both forms are understood in either case.
    """

    def __init__(
        self, generator: Generator, *, options: AnnotationOptions = OURS, seed: int = 0, form: Form = "text"
    ) -> None:
        self.generator = generator
        self.options = options
        self.seed = seed
        self.form: Form = form

    @property
    def fingerprint(self) -> str:
        """The generator's, with the wording of the prompt, how scores are read, sampling, seed and form."""
        return annotator_fingerprint(self.generator.fingerprint, self.options, self.seed, self.form)

    def annotate(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Annotation | ItemError]:
        """One annotation or error per completion, in their order; the raw answer is each one's critique."""
        return self.annotate_batch([Candidates(prompt, tuple(completions))])[0]

    def annotate_batch(self, items: Sequence[Candidates]) -> list[list[Annotation | ItemError]]:
        """`annotate` for several prompts, written in one batch."""
        orders = [self._order(item) for item in items]
        requests = [self._request(item, order) for item, order in zip(items, orders, strict=True)]
        answers = self.generator.generate(requests, self.options.sampling)
        return [
            answered(item.completions, order, answer, self.fingerprint)
            for item, order, answer in zip(items, orders, answers, strict=True)
        ]

    def as_call(self, name: str) -> Call[Candidates, Candidates] | None:
        """The paid call that asks for the annotation of all completions of a prompt, where the generator's are calls.

        It is read by the same parser, and asked for JSON of the annotation's schema where its service offers that.
        """

        def read(item: Candidates, answer: Completion) -> Candidates | ItemError:
            rated = annotated(item, answered(item.completions, self._order(item), answer, self.fingerprint))
            return cut_short(rated, answer) if isinstance(rated, ItemError) else rated

        question = Question(
            Candidates, lambda item: self._request(item, self._order(item)), read,
            item_name=lambda item: item.prompt.id,
            ids=lambda item: [item.prompt.id, *(completion.id for completion in item.completions)],
            schema=lambda item: annotation_schema(len(item.completions)) if self.form == "json" else None,
            parser_version=PARSER_VERSION,
        )  # fmt: skip
        return self.generator.as_call(name, self.options.sampling, question)

    def load(self) -> None:
        """Load the generator's weights, where it has any."""
        self.generator.load()

    def close(self) -> None:
        """Free the generator's weights."""
        self.generator.close()

    def _order(self, item: Candidates) -> tuple[int, ...]:
        return shown_order(len(item.completions), self.seed, item.prompt.id, shuffle=self.options.shuffle)

    def _request(self, item: Candidates, order: tuple[int, ...]) -> CompletionRequest:
        texts = [item.completions[index].text for index in order]
        return CompletionRequest(annotation_prompt(item.prompt, texts, self.form, self.options), seed=self.seed)


def annotator_fingerprint(generator: str, options: AnnotationOptions = OURS, seed: int = 0, form: Form = "text") -> str:
    """What identifies an annotator on a model whose fingerprint is `generator`; see `VlmAnnotator.fingerprint`."""
    wording = [annotation_prompt(_PROBE, ["", ""], form, options).question, annotation_schema(2), READING_VERSION]
    parts: list[object] = [generator, wording, options.sampling.to_plain(), seed, form]
    if own := options.wording():
        parts.append(own)
    return "annotator:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def answered(
    completions: Sequence[Completion], order: Sequence[int], answer: Completion | ItemError, annotator: str
) -> list[Annotation | ItemError]:
    """An annotator's raw answer as one annotation or error per completion, in the completions' own order.

    Args:
        order: position shown -> index of the completion, from `shown_order`.
        annotator: the name that the annotations carry.
    """
    if isinstance(answer, ItemError):
        return [answer] * len(completions)
    said = without_thinking(answer.text)
    if said is None:
        unfinished = ItemError("unfinished_thinking", f"it was still thinking: {answer.text}", retryable=False)
        return [cut_short(unfinished, answer)] * len(completions)
    marks: list[Annotation | ItemError] = [ItemError("unparsed")] * len(completions)
    for position, (index, scores) in enumerate(zip(order, parse_annotation(said, len(order)), strict=True)):
        if isinstance(scores, ItemError):
            raw = f"{scores.detail}; the annotator wrote: {answer.text}"
            marks[index] = ItemError(scores.reason, raw, scores.retryable)
        else:
            values = {name: scores[name] for name in ATTRIBUTES}
            marks[index] = Annotation(completions[index].id, annotator, values, answer.text, position)
    errors = [mark for mark in marks if isinstance(mark, ItemError)]
    return marks if len(errors) < len(marks) else [cut_short(error, answer) for error in errors]


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


def cut_short(error: ItemError, answer: Completion) -> ItemError:
    """The error by the name of the answer's ending, where that explains it."""
    if answer.finish_reason not in ENDINGS_WITHOUT_TEXT or error.reason == answer.finish_reason:
        return error
    detail = f"the answer ended by '{answer.finish_reason}', {error.detail}"
    return ItemError(answer.finish_reason, detail, retryable=False)
