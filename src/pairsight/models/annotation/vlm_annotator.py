"""A vision-language model as annotator: any `Generator`, asked with the annotation prompt, read by its parser."""

import hashlib
import json
from collections.abc import Sequence

from pairsight.models.annotation.prompt import (
    PARSER_VERSION,
    Form,
    annotation_prompt,
    annotation_schema,
    parse_annotation,
    shown_order,
)
from pairsight.models.protocols import Annotator, Generator, Sampling
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

GREEDY = Sampling(temperature=0.0, max_new_tokens=1024)
_PROBE = Prompt("", (Message("user", "?"),))


class VlmAnnotator(Annotator):
    """Rates all completions of a prompt in one request, in an order shuffled by seed.

    Args:
        generator: the model that rates; it sees the prompt's own images.
        sampling: how it answers; default: greedy, at most 1024 tokens.
        seed: of the order in which completions are shown, and of sampling.
        form: "json" asks for a JSON object; both forms are understood in either case.
    """

    def __init__(
        self, generator: Generator, *, sampling: Sampling = GREEDY, seed: int = 0, form: Form = "text"
    ) -> None:
        self.generator = generator
        self.sampling = sampling
        self.seed = seed
        self.form: Form = form

    @property
    def fingerprint(self) -> str:
        """The generator's, with the wording of the prompt, the parser's version, sampling, seed and form."""
        return annotator_fingerprint(self.generator.fingerprint, self.sampling, self.seed, self.form)

    def annotate(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Annotation | ItemError]:
        """One annotation or error per completion, in their order; the raw answer is each one's critique."""
        return self.annotate_batch([Candidates(prompt, tuple(completions))])[0]

    def annotate_batch(self, items: Sequence[Candidates]) -> list[list[Annotation | ItemError]]:
        """`annotate` for several prompts, written in one batch."""
        orders = [shown_order(len(item.completions), self.seed, item.prompt.id) for item in items]
        requests = [self._request(item, order) for item, order in zip(items, orders, strict=True)]
        answers = self.generator.generate(requests, self.sampling)
        return [
            answered(item.completions, order, answer, self.fingerprint)
            for item, order, answer in zip(items, orders, answers, strict=True)
        ]

    def load(self) -> None:
        """Load the generator's weights, where it has any."""
        self.generator.load()

    def close(self) -> None:
        """Free the generator's weights."""
        self.generator.close()

    def _request(self, item: Candidates, order: tuple[int, ...]) -> CompletionRequest:
        texts = [item.completions[index].text for index in order]
        return CompletionRequest(annotation_prompt(item.prompt, texts, self.form), seed=self.seed)


def annotator_fingerprint(generator: str, sampling: Sampling = GREEDY, seed: int = 0, form: Form = "text") -> str:
    """What identifies an annotator on a model whose fingerprint is `generator`; see `VlmAnnotator.fingerprint`."""
    wording = [annotation_prompt(_PROBE, ["", ""], form).question, annotation_schema(2), PARSER_VERSION]
    parts = [generator, wording, sampling.to_plain(), seed, form]
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
    marks: list[Annotation | ItemError] = [ItemError("unparsed")] * len(completions)
    for position, (index, scores) in enumerate(zip(order, parse_annotation(answer.text, len(order)), strict=True)):
        if isinstance(scores, ItemError):
            raw = f"{scores.detail}; the annotator wrote: {answer.text}"
            marks[index] = ItemError(scores.reason, raw, scores.retryable)
        else:
            values = {name: scores[name] for name in ATTRIBUTES}
            marks[index] = Annotation(completions[index].id, annotator, values, answer.text, position)
    return marks
