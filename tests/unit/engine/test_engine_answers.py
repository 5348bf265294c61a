"""Verdicts on HTTP answers."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.engine.calls.answers import error_message, finish_reason_of, judge_answer, retry_after_s, usage_of
from pairsight.engine.calls.options import Price
from pairsight.store.attempts import Usage

GOOD = json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "length"}],
                   "usage": {"prompt_tokens": 10, "completion_tokens": 2}})  # fmt: skip


def error(message: str, code: str = "") -> str:
    return json.dumps({"error": {"message": message, "code": code}})


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason"),
    [
        (200, GOOD, "answer", ""),
        (200, '{"choices": [{"mess', "answer", ""),  # truncated: paid for, so kept; parsing says what is wrong
        (200, error("upstream is away"), "broken", "error_answer"),
        (200, "<html>Welcome</html>", "fatal", "html"),
        (400, error("bad image"), "refused", "refused"),
        (400, error("filtered", "content_filter"), "refused", "content_filter"),
        (413, "", "refused", "refused"),
        (422, error("field required"), "refused", "refused"),
        (401, error("Incorrect API key"), "fatal", "http_401"),
        (403, "", "fatal", "http_403"),
        (404, error("model 'x' not found"), "fatal", "http_404"),
        (301, "", "fatal", "http_301"),
        (429, error("slow down"), "busy", "http_429"),
        (429, error("You exceeded your quota", "insufficient_quota"), "fatal", "http_429"),
        (503, "<html>overloaded</html>", "busy", "http_503"),
        (500, "", "broken", "http_500"),
        (502, "<html>bad gateway</html>", "broken", "http_502"),
        (599, "", "broken", "http_599"),
    ],
)
def test_the_verdict(status: int, text: str, kind: str, reason: str) -> None:
    verdict = judge_answer(status, {}, text)
    assert (verdict.kind, verdict.reason) == (kind, reason)


def test_the_verdict_says_what_the_server_said() -> None:
    assert judge_answer(404, {}, error("model 'x'\nnot found")).detail == (
        "does not know this model or address (model 'x' not found)"
    )
    assert "points elsewhere (https://b/v1)" in judge_answer(308, {"location": "https://b/v1"}, "").detail
    assert judge_answer(500, {}, "").detail == "HTTP 500"
    assert judge_answer(429, {"retry-after": "7"}, "").pause_s == 7
    assert error_message('{"detail": "no such route"}') == "no such route"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0),
        ({"retry-after": "Mon, 01 Jan 2026 00:00:00 +99999999"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=datetime(2026, 11, 21, 10, tzinfo=UTC)) == seconds


def test_usage_cost_and_ending() -> None:
    assert usage_of(GOOD, Price(prompt=1e6, completion=2e6)) == Usage(10, 2, 14.0)
    assert usage_of(GOOD, None) == Usage(10, 2, None)
    assert usage_of('{"usage": {"prompt_tokens": 3}}', Price(prompt=1, completion=1)) == Usage(3, None, None)
    assert finish_reason_of(GOOD) == "length"


@given(
    st.integers(200, 599),
    st.dictionaries(st.sampled_from(["retry-after", "content-type", "location"]), st.text()),
    st.text() | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "choices", "usage", "message", "prompt_tokens"]), inner),
    ).map(json.dumps),
)  # fmt: skip
def test_no_answer_whatever_breaks_us(status: int, headers: dict[str, str], text: str) -> None:
    verdict = judge_answer(status, headers, text)
    assert "\n" not in verdict.detail
    usage_of(text, Price(prompt=1, completion=1))
    finish_reason_of(text)
