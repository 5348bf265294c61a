"""What an HTTP answer of an OpenAI-compatible endpoint means: success, retry, a failed item, or a failed endpoint."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx

from pairsight.engine.calls.options import CHAT, Price
from pairsight.engine.calls.receive import ACCEPTED, UnusableAnswerError, receive
from pairsight.errors import one_line
from pairsight.store.attempts import Usage
from pairsight.store.encoding import paired_text

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_HALF_OF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str) -> tuple[Any, bool]:
    """The value of a JSON text from outside, and whether U+FFFD had to replace halves of surrogate pairs in it.

    JSON may escape such a half (`"\\ud83d"`, a cut emoji), which is not a character: neither UTF-8 nor tables hold it.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    value = json.loads(text.removeprefix("\ufeff"))
    if _HALF_OF_PAIR.search(text) is None:
        return value, False
    with_halves = json.dumps(value, ensure_ascii=False)
    as_text = paired_text(with_halves)
    return (value, False) if as_text == with_halves else (json.loads(as_text), True)


def is_nested_deeper(text: str, most: int) -> bool:
    """Whether lists and objects in a JSON text are nested deeper than `most`; counted without parsing it."""
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for bracket in re.finditer(r"[][{}]", _STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            return True
    return False


Kind = Literal["answer", "busy", "broken", "refused", "unusable", "fatal"]
_BUSY = (429, 503, 529)
_BROKEN = (408, 409, 425, 500, 502, 504, 520, 522, 524)
_FATAL = {
    401: "refuses the key",
    402: "wants to be paid",
    403: "forbids the call",
    404: "does not know this model or address",
    405: "takes no such calls at this address",
}
LONGEST_ENDING = 100
"""Characters of a server's word for how an answer ended (ours)."""
DEEPEST_ERROR = 100
_SPENT = ("insufficient_quota", "billing_hard_limit_reached", "credit balance is too low")
_FILTERED = ("content_filter", "content_policy", "content management policy", "safety system", "prohibited_content")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an HTTP answer.

    `answer`: keep and parse it. `busy`: try again, later and slower. `broken`: try again. `refused`: this item fails.
    `unusable`: the answer came and could not be read, this item fails. `fatal`: the endpoint is not called again.
    `reason` is a word to count by.
    """

    kind: Kind
    reason: str = ""
    detail: str = ""
    pause_s: float | None = None


def judge_answer(status: int, headers: Mapping[str, str], text: str) -> Verdict:
    """The verdict on an answer with this status, these headers (names in lower case) and this body."""
    detail = error_message(text) or f"HTTP {status}"
    said = f"{detail} {text[:2000]}".lower()
    if 200 <= status < 300:
        return _judge_success(headers, text, detail)
    if status in _FATAL or (status == 429 and any(word in said for word in _SPENT)):
        return Verdict("fatal", f"http_{status}", f"{_FATAL.get(status, 'says that its quota is spent')} ({detail})")
    if 300 <= status < 400:
        location = one_line(headers.get("location", "?"), 200)
        return Verdict("fatal", f"http_{status}", f"points elsewhere ({location}): name that URL")
    if status in _BUSY or status in _BROKEN or status >= 500:
        return Verdict("busy" if status in _BUSY else "broken", f"http_{status}", detail, retry_after_s(headers))
    filtered = any(word in said for word in _FILTERED)
    return Verdict("refused", "content_filter" if filtered else "refused", detail)


def _judge_success(headers: Mapping[str, str], text: str, detail: str) -> Verdict:
    """Anything but an error is kept as an answer: it may have been paid for, and parsing says what is wrong with it."""
    answer = _object(text)
    if "error" in answer and not isinstance(answer.get("choices"), list):
        return Verdict("broken", "error_answer", detail)
    if not answer and ("html" in headers.get("content-type", "").lower() or text.lstrip()[:1] == "<"):
        return Verdict("fatal", "html", f"answers HTML, not JSON ({detail}); is its URL the API's, ending in /v1?")
    return Verdict("answer")


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that Retry-After asks for, from a number or a date; None when it does not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def usage_of(text: str, price: Price | None) -> Usage:
    """The tokens that an answer says it used, and their cost; unknown where it does not say."""
    usage = _object(text).get("usage")
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    known = price is not None and prompt is not None and completion is not None
    return Usage(prompt, completion, price.cost(prompt, completion) if known else None)  # type: ignore[union-attr,arg-type]


def finish_reason_of(text: str) -> str:
    """Why the first choice of an answer ended; empty where it does not say."""
    choices = _object(text).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    reason = first.get("finish_reason") if isinstance(first, dict) else None
    return one_line(reason)[:LONGEST_ENDING] if isinstance(reason, str) else ""


def is_replaced(raw: bytes, text: str) -> bool:
    """Whether U+FFFD replaced something in the text of an answer, or in its JSON."""
    if text.encode() != raw:
        return True
    try:
        return read_json(text)[1]
    except (ValueError, RecursionError):
        return False


def error_message(text: str) -> str:
    """The message in an error answer, on one line; the beginning of the text when it is not JSON."""
    answer = {} if is_nested_deeper(text, DEEPEST_ERROR) else _object(text)
    error = answer.get("error")
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or error
    detail = answer.get("detail")  # as FastAPI servers say it
    message = error or detail or ("" if is_json(text) else text)
    return one_line(str(message))


def is_json(text: str) -> bool:
    """Whether a text is a JSON object."""
    return bool(_object(text)) or text.strip() == "{}"


def _object(text: str) -> dict[str, object]:
    try:
        value, _ = read_json(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


PATIENCE_S = 15.0
TIMES = 5
MOST_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Listed:
    """A model in a server's models list: its name, where its weights come from, and how long its context is.

    The last two are what vLLM and SGLang add to the list; empty where a server says nothing of them.
    """

    name: str
    root: str = ""
    max_model_len: str = ""


async def listed_models(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], hide: Callable[[str], str], times: int = TIMES
) -> list[Listed] | None:
    """The models list of the server that chat completions are posted to; None where it gives none.

    Args:
        client: what sends the request.
        url: where chat completions are posted to.
        headers: with the server's key, if it gets one.
        hide: masks keys.
        times: how often it is asked while the connection breaks.
    """
    request = client.build_request("GET", f"{url.removesuffix(CHAT)}/models", headers={**headers, **ACCEPTED})
    for _ in range(times):  # a server that failed may close the connection that is then used again
        try:
            async with asyncio.timeout(PATIENCE_S):
                received = await receive(client, request, MOST_BYTES, hide)
            listed, _ = read_json(hide(received.text))
            if received.status != 200:
                return None
            said = [(one["id"], one.get("root"), one.get("max_model_len")) for one in listed["data"]]
            return [Listed(*("" if part is None else one_line(str(part)) for part in parts)) for parts in said]
        except httpx.TransportError:
            continue
        except (
            TimeoutError, httpx.HTTPError, UnusableAnswerError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError,
        ):  # fmt: skip
            return None
    return None


def find_listed(model: str, models: Sequence[Listed]) -> Listed | None:
    """A model in a list, as it is or under a path (Gemini's "models/NAME"); None where it is not."""
    return next((one for one in models if one.name == model or one.name.endswith(f"/{model}")), None)
