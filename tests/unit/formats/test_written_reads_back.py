"""Whatever a layout has room for comes back the same from its file; whatever it has no room for was said before."""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Format
from pairsight.formats.datasets.reading import Reading, read_records
from pairsight.formats.trl import to_plain
from pairsight.images.source import UnpackedImages, WithImages
from pairsight.pipeline.convert import ConvertSpec, write_records
from pairsight.records import (
    ATTRIBUTES,
    IMAGE_MARK,
    Annotation,
    Candidates,
    Completion,
    Demonstration,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
)
from pairsight.registry import formats


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 255, 0)).save(out, "PNG")
    return out.getvalue()


REFS = [ImageRef(hashlib.sha256(png(number)).hexdigest()) for number in range(4)]


def written(gives: str) -> list[str]:
    """The names of the formats that are written and give this."""
    known = [(name, made) for name, made in formats.in_order() if issubclass(made, Format)]
    return [name for name, made in known if made.write is not Format.write and made.gives == gives]


PAIRS = written("pairs")

HARD = [
    "one\ntwo\n\nthree",
    "a\r\nb",
    "\u2028é\x85ü",
    '["a", {"b": 1}]',
    '"quoted", \\n and \\',
    "\U0001f600,\tط",
    "\x00\x7f",
]
texts = (
    st.one_of(st.sampled_from(HARD), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
    .map(str.strip)
    .filter(lambda text: bool(text) and IMAGE_MARK not in text)
)
"""Any text, with quotes, line breaks, emoji and other scripts inside, and without space around it."""
names = st.text("abcXYZ019-_/é. ", min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def prompts(draw: st.DrawFn, name: str) -> Prompt:
    """Perhaps a system message, one or two questions, and up to three images in any of them."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    questions = draw(st.integers(1, 2))
    for number in range(questions):
        images = tuple(draw(st.lists(st.sampled_from(REFS), max_size=2 if number == 0 else 1)))
        text = draw(texts)
        if len(images) == 2 and draw(st.booleans()):
            text = f"{IMAGE_MARK}\n{text}\n{IMAGE_MARK}\n{draw(texts)}"
        messages.append(Message("user", text, images))
        if number + 1 < questions:
            messages.append(Message("assistant", draw(texts)))
    return Prompt(name, tuple(messages))


@st.composite
def some_pairs(draw: st.DrawFn) -> list[PreferencePair]:
    pairs = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        said = draw(st.lists(texts, min_size=2, max_size=4, unique=True))
        chosen, *rejected = [Completion(f"{name}:{n}", name, text, "", "", 0, n) for n, text in enumerate(said)]
        weight = draw(st.sampled_from([1.0, 1.0, 0.25, 3.5]))
        pairs.append(PreferencePair(name, draw(prompts(name)), chosen, tuple(rejected), "given", weight=weight))
    return pairs


def shown(prompt: Prompt) -> tuple[object, ...]:
    """What a model is shown: parts in order, with the hashes of the images."""
    return [to_plain(message) for message in prompt.messages], [image.sha256 for image in prompt.images]


def one_question(pair: PreferencePair) -> bool:
    """One message about exactly one image."""
    return len(pair.prompt.messages) == 1 and len(pair.prompt.images) == 1


def one_message(pair: PreferencePair) -> bool:
    """One message about any images."""
    return len(pair.prompt.messages) == 1


HOLDS = {"rlaif-v": one_question, "rlhf-v": one_question, "seva": one_question, "mmpr": one_message}
"""Which pairs a layout has room for, where it has not for all."""


def one_each(pair: PreferencePair) -> list[PreferencePair]:
    return [replace(pair, rejected=(one,)) for one in pair.rejected]


def few(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", PAIRS)
@few(3)
@given(data=st.data())
def test_pairs_come_back_the_same(name: str, data: st.DataObject):
    check_pairs(name, data)


@pytest.mark.long
@pytest.mark.parametrize("name", PAIRS)
@few(120)
@given(data=st.data())
def test_very_many_pairs_come_back_the_same(name: str, data: st.DataObject):
    check_pairs(name, data)


def check_pairs(name: str, data: st.DataObject) -> None:
    pairs = data.draw(some_pairs())
    format = formats.get(name)()
    container = data.draw(st.sampled_from(format.containers))
    said: list[str] = []
    with a_folder() as (folder, images):
        words = {"data": "made", "out": f"{folder}/out", "to": name, "container": container, "on_error": "skip"}
        try:
            made = write_records(WithImages(pairs, images), ConvertSpec.parse(words), said.append)
        except DataError as error:
            assert "nothing is left to write" in str(error)
            assert name in HOLDS
            assert not any(map(HOLDS[name], pairs))
            return
        found = read_records(f"{folder}/out", Reading(format=name))
        refs = [ref for one in found for ref in one.prompt.images]
        files = [hashlib.sha256(found.images.path(ref).read_bytes()).hexdigest() for ref in refs]
    holds = [pair for pair in pairs if name not in HOLDS or HOLDS[name](pair)]
    kept = [one for pair in holds for one in one_each(pair)]
    assert any("several rejected" in one for one in said) == any(len(pair.rejected) > 1 for pair in holds)
    assert made.num_records + sum(made.left_out.values()) == len(pairs)
    assert made.num_rows == len(found) == len(kept)
    assert files == [ref.sha256 for ref in refs]
    for one, wanted in zip(found, kept, strict=True):
        assert shown(one.prompt) == shown(wanted.prompt)
        assert (one.chosen.text, one.rejected[0].text) == (wanted.chosen.text, wanted.rejected[0].text)
        assert one.weight == wanted.weight
        assert one.id.partition("#")[0] == wanted.id


@contextmanager
def a_folder() -> Iterator[tuple[str, UnpackedImages]]:
    """A folder with a cache of its own, in which the images are."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        images = UnpackedImages()
        for number in range(len(REFS)):
            images.put(png(number), "made")
        yield folder, images


@pytest.mark.parametrize("name", written("demonstrations"))
@few(3)
@given(data=st.data())
def test_demonstrations_come_back_the_same(name: str, data: st.DataObject):
    """Of a conversation with earlier answers readers make a demonstration each; the last one is what was written."""
    given = [Demonstration(one.id, one.prompt, one.chosen, "dataset", one.weight) for one in data.draw(some_pairs())]
    container = data.draw(st.sampled_from(formats.get(name)().containers))
    with a_folder() as (folder, images):
        words = {"data": "made", "out": f"{folder}/out", "to": name, "container": container}
        write_records(WithImages(given, images), ConvertSpec.parse(words), lambda sentence: None)
        found = {one.id.partition("#turn-")[0]: one for one in read_records(f"{folder}/out", Reading(format=name))}
    assert list(found) == [one.id for one in given]
    for one in given:
        assert shown(found[one.id].prompt) == shown(one.prompt)
        assert (found[one.id].completion.text, found[one.id].weight) == (one.completion.text, one.weight)


@pytest.mark.parametrize("name", written("candidates"))
@few(4)
@given(data=st.data())
def test_candidates_come_back_the_same(name: str, data: st.DataObject):
    scores = st.fixed_dictionaries(dict.fromkeys(ATTRIBUTES, st.sampled_from([0.0, 1.0, 2.5, 4.0])))
    given = []
    for pair in data.draw(some_pairs()):
        seen = pair.prompt.images[:1]
        prompt = Prompt(pair.id, (Message("user", data.draw(texts) + pair.id, seen),))
        said = (pair.chosen, *pair.rejected)
        notes = tuple(Annotation(one.id, name, data.draw(scores)) for one in said)
        given.append(Candidates(prompt, said, notes))
    container = data.draw(st.sampled_from(formats.get(name)().containers))
    with a_folder() as (folder, images):
        words = {"data": "made", "out": f"{folder}/out", "to": name, "container": container, "on_error": "skip"}
        made = write_records(WithImages(given, images), ConvertSpec.parse(words), lambda sentence: None)
        found = read_records(f"{folder}/out", Reading(format=name))
    assert made.num_records == len(given) - (0 if container != "csv" else made.left_out.get("container", 0))
    for one, wanted in zip(found, given, strict=True):
        assert (one.prompt.id, shown(one.prompt)) == (wanted.prompt.id, shown(wanted.prompt))
        assert [other.text for other in one.completions] == [other.text for other in wanted.completions]
        assert [dict(note.scores) for note in one.annotations] == [dict(note.scores) for note in wanted.annotations]
