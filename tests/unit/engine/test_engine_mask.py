"""Secrets are hidden in every rendering, and nothing else is."""

import base64
import html
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.engine.calls.options import Mask

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)
TEXTS = st.text(max_size=20)


def escaped_at_random(data: st.DataObject, secret: str) -> str:
    """Every character of the secret in a rendering of its own."""
    ways = st.sampled_from(
        ["{c}", "\\u{n:04x}", "\\\\u{n:04X}", "\\x{n:02x}", "%{n:02X}", "%25{n:02x}", "&#{n};", "&#x{n:x};"]
    )
    return "".join(data.draw(ways).format(c=character, n=ord(character)) for character in secret)


@given(st.data(), SECRETS, TEXTS, TEXTS)
def test_a_secret_is_hidden_however_its_characters_are_escaped(
    data: st.DataObject, secret: str, before: str, after: str
) -> None:
    text = before + escaped_at_random(data, secret) + after
    mask = Mask([secret])
    assert mask.is_needed(text)
    assert "***" in mask.hide(text)
    assert not mask.is_needed(mask.hide(text)) or secret in before + after or "*" in secret


@given(SECRETS, st.binary(max_size=7), st.binary(max_size=7))
def test_a_secret_is_hidden_in_what_the_standard_library_makes_of_a_longer_text(
    secret: str, before: bytes, after: bytes
) -> None:
    mask = Mask([secret])
    whole = before + secret.encode() + after
    for shown in (
        base64.b64encode(whole).decode(),
        base64.urlsafe_b64encode(whole).decode(),
        whole.hex(),
        whole.hex().upper(),
        json.dumps(secret),
        json.dumps(json.dumps(secret)),
        repr(secret.encode()),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(urllib.parse.quote(secret)),
        html.escape(secret),
        html.escape(html.escape(secret)),
    ):
        assert mask.is_needed(shown), shown


@given(SECRETS, st.text())
def test_a_text_without_the_secret_is_left_as_it_is(secret: str, text: str) -> None:
    mask = Mask([secret])
    if not mask.is_needed(text):
        assert mask.hide(text) == text
    assert Mask().hide(text) == text
    assert not Mask().is_needed(secret)


def test_of_secrets_that_begin_alike_none_is_left_in_part() -> None:
    assert Mask(["sk-abcdef", "sk-abcdef-long"]).hide("sk-abcdef-long sk-abcdef sk-abcde") == "*** *** sk-abcde"


@pytest.mark.parametrize("piece", ["\\", "%25", "&amp;", "&#0", "0", "a", "sk-aaaaaaaaaaaaaaa", "\\u00", "QUJD"])
def test_a_long_hostile_text_is_searched_in_linear_time(piece: str) -> None:
    mask = Mask(["sk-" + "a" * 40, "b" * 20])
    assert not mask.is_needed(piece * (500_000 // len(piece)))  # would take minutes if it were quadratic
