"""The stages of `stages.py` as paid calls, when their model is behind an endpoint: same inputs, same results."""

from pairsight.engine.stage import Json
from pairsight.models.annotation_parser import PARSER_VERSION as ANNOTATION_PARSER_VERSION
from pairsight.models.annotation_prompt import annotation_prompt, annotation_schema, shown_order
from pairsight.models.dialogue import Rated
from pairsight.models.endpoint import PARSER_VERSION, EndpointCall, EndpointModel
from pairsight.models.endpoint_answer import ENDINGS_WITHOUT_TEXT
from pairsight.models.stages import annotated
from pairsight.models.vlm_annotator import VlmAnnotator, answered
from pairsight.records import Annotation, Candidates, Completion, CompletionRequest, ItemError


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
        from pairsight.models.vlm_judge import quality_scores

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
