"""Strangers' text: what is invisible is written out, what is long is cut, what differs is marked."""

from hypothesis import given
from hypothesis import strategies as st

from pairsight.reporting.page import marked_differences, visible


def test_direction_marks_and_controls_are_written_out():
    assert visible("a\u202eb\u200f\x00c") == "a⟨U+202E⟩b⟨U+200F⟩⟨U+0000⟩c"


def test_letters_of_all_scripts_newlines_and_joiners_stay():
    text = "héllo\tمرحبا 你好\nخانه\u200cها 👩\u200d🔬"
    assert visible(text) == text


def test_carriage_returns_are_newlines_and_half_surrogates_are_question_marks():
    assert visible("a\r\nb\rc\ud800") == "a\nb\nc?"


def test_a_long_text_is_cut_and_says_so():
    assert visible("x" * 3000, 10) == "xxxxxxxxxx … (cut: 3,000 characters)"


def test_words_the_other_side_does_not_have_are_marked():
    assert marked_differences("a red circle and a star", "a blue circle and a star") == [
        ("a ", False),
        ("red", True),
        (" circle and a star", False),
    ]


def test_neighbouring_marked_words_are_one_piece():
    assert marked_differences("a circle on the left", "a circle") == [("a circle ", False), ("on the left", True)]


def test_texts_that_share_almost_nothing_are_not_marked():
    assert marked_differences("one two three", "four five six") == [("one two three", False)]


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_pieces_are_the_visible_text(text, other):
    assert "".join(piece for piece, _ in marked_differences(text, other)) == visible(text)


@given(st.text(max_size=200))
def test_no_invisible_control_is_left(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\x00\x1b\x7f\ufeff")
