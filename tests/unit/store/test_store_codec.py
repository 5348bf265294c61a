"""Records come back from the ledger as they went in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.errors import RunError
from pairsight.records import Annotation, Candidates, Completion, Distortion, ImageRef, Message, Prompt
from pairsight.store.encoding import decode, encode

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
refs = st.builds(
    ImageRef,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    distortion=st.none()
    | st.builds(Distortion, name=text, parameters=st.dictionaries(text, st.floats(allow_nan=False))),
)
prompts = st.builds(
    Prompt,
    id=text,
    messages=st.lists(
        st.builds(Message, role=text, text=text, images=st.lists(refs, max_size=2).map(tuple)), max_size=3
    ).map(tuple),
    source=text,
)


@given(prompts)
def test_a_prompt_survives(prompt: Prompt) -> None:
    assert decode(Prompt, encode(prompt)) == prompt


def test_nested_records_and_none_survive() -> None:
    prompt = Prompt("p", (Message("user", "<image> what?", (ImageRef("ab"),)),))
    completions = (
        Completion("p:0", "p", "a\ncat 🐈", "stop", "m", 1, 0),
        Completion("p:1", "p", "", "length", "m", 2, 1, images=(ImageRef("ab", Distortion("noise", {"t": 500.0}, 3)),)),
    )
    candidates = Candidates(prompt, completions, (Annotation("p:0", "truth", {"correctness": 4.0}),))
    assert decode(Candidates, encode(candidates)) == candidates


def test_not_a_number_is_kept() -> None:
    back = decode(Annotation, encode(Annotation("c", "a", {"x": math.nan, "y": -math.inf})))
    assert math.isnan(back.scores["x"])
    assert back.scores["y"] == -math.inf


def test_equal_records_give_equal_text() -> None:
    assert encode(ImageRef("ab", None)) == encode(ImageRef("ab")) == '{"sha256":"ab","distortion":null}'


@pytest.mark.parametrize("damaged", ["", "{", '{"id": 3}', "null", "[]"])
def test_damaged_text_is_one_clear_error(damaged: str) -> None:
    with pytest.raises(RunError, match=r"the ledger holds no Prompt .*--verify") as error:
        decode(Prompt, damaged)
    assert "\n" not in str(error.value)
