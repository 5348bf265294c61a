"""The stages of `stages.py` as paid calls, when their model is behind an endpoint: same inputs, same results."""

from pairsight.engine.stage import Json
from pairsight.models.annotation_parser import PARSER_VERSION as ANNOTATION_PARSER_VERSION
from pairsight.models.annotation_prompt import annotation_prompt, annotation_schema, shown_order
from pairsight.models.endpoint import PARSER_VERSION, EndpointCall, EndpointModel
from pairsight.models.endpoint_answer import ENDINGS_WITHOUT_TEXT
from pairsight.models.stages import annotated
from pairsight.models.vlm_annotator import VlmAnnotator, answered
from pairsight.records import Candidates, Completion, CompletionRequest, ItemError


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
        if isinstance(rated, ItemError) and answer.finish_reason in ENDINGS_WITHOUT_TEXT:
            detail = f"the answer ended by '{answer.finish_reason}', {rated.detail}"
            return ItemError(answer.finish_reason, detail, retryable=False)
        return rated

    def ids(item: Candidates) -> Json:
        return [item.prompt.id, *(completion.id for completion in item.completions)]

    return EndpointCall(
        name, 1, PARSER_VERSION * 1000 + ANNOTATION_PARSER_VERSION, Candidates, model, annotator.sampling,
        ask=ask, read=read, ids=ids, item_name=lambda item: item.prompt.id,
        schema=lambda item: annotation_schema(len(item.completions)) if annotator.form == "json" else None,
    )  # fmt: skip
