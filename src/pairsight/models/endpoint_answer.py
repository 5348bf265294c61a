"""What an OpenAI-compatible server answered, as a completion. Pure; every answer gives a completion or an error."""

from typing import Any

from pairsight.engine.answers import LONGEST_ENDING
from pairsight.engine.outside_text import one_line, read_json
from pairsight.models.requests import completion_id
from pairsight.records import Completion, CompletionRequest, ItemError

ENDINGS_WITHOUT_TEXT = ("length", "content_filter", "refusal")
"""Endings that say why nothing was said: kept as they are, not asked again."""


def completion_of(raw: str, request: CompletionRequest, model: str) -> Completion | ItemError:
    """The first choice of a raw answer.

    Args:
        raw: the body as it came; what its JSON escapes as half a surrogate pair is read as U+FFFD.
        request: what was asked.
        model: the name that the completion carries.

    Returns:
        The completion, with the server's own `finish_reason`; an `ItemError` "not_json" or "no_text" that quotes what
        came instead.
    """
    try:
        answer, _ = read_json(raw)
        choice = answer["choices"][0]
        message = choice["message"]
        ending = one_line(str(choice.get("finish_reason") or "unknown"), LONGEST_ENDING)
        text = _text(message.get("content"))
        refusal = message.get("refusal")
    except (ValueError, RecursionError):
        return ItemError("not_json", f"the answer is not JSON or is cut short: {_quoted(raw)}")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ItemError("no_text", f"the answer holds no message: {_quoted(raw)}")
    if text is None and isinstance(refusal, str):
        text, ending = refusal, "refusal"
    if text is None and ending not in ENDINGS_WITHOUT_TEXT:
        return ItemError("no_text", f"the answer holds no text (it ended by '{ending}'): {_quoted(raw)}")
    return Completion(
        id=completion_id(request),
        prompt_id=request.prompt.id,
        text=text or "",
        finish_reason=ending,
        model=model,
        seed=request.seed,
        sample_index=request.sample_index,
        images=request.images,
    )


def _text(content: Any) -> str | None:
    """A message's text: a text, or the texts in a list of parts."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


def _quoted(raw: str) -> str:
    return one_line(raw, 200) or "nothing"
