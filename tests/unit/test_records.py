"""Prompts with other images; the search for cycles rests inside, and is as before after it, whatever happens."""

import gc

import pytest

from pairsight.records import ImageRef, Message, Prompt, paused_collection


def test_other_images_take_the_place_of_the_first_ones():
    a, b, c, other = (ImageRef(name) for name in "abcd")
    prompt = Prompt("p", (Message("user", "x", (a, b)), Message("assistant", "y"), Message("user", "z", (c,))))
    changed = prompt.with_images((other,))
    assert [message.images for message in changed.messages] == [(other, b), (), (c,)]
    assert prompt.with_images((c, b, a)).images == (c, b, a)
    assert (changed.id, changed.question) == ("p", "z")


def test_it_is_on_again_after_nesting_and_after_an_error():
    assert gc.isenabled()
    with paused_collection():
        with paused_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no"), paused_collection():
        raise ValueError("no")
    assert gc.isenabled()


def test_who_had_it_off_keeps_it_off():
    gc.disable()
    try:
        with paused_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
