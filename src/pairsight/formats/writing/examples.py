"""A record -> the example that a format writes, and what of the record an example has no room for."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, Gives, Picture, RowCompletion, Turn
from pairsight.formats.pairs import GIVEN
from pairsight.records import (
    IMAGE_MARK,
    Annotation,
    Candidates,
    Completion,
    Demonstration,
    ImageRef,
    Message,
    PreferencePair,
)

Record = PreferencePair | Candidates | Demonstration


class Pictures(Protocol):
    """What gives images the form that rows have them in."""

    def picture(self, ref: ImageRef) -> Picture:
        """One image; DataError where it cannot be had."""
        ...


def example_of(record: Record, gives: Gives, pictures: Pictures) -> Example:
    """A record as an example of a format that gives `gives`.

    A pair is also a demonstration, of its chosen completion.

    Raises:
        DataError: candidates or demonstrations for a format of pairs; a prompt that shows a distorted image, or text
            that has marks of images where no image is.
    """
    prompt = record.prompt
    where = f"{_noun(record)} '{prompt.id if isinstance(record, Candidates) else record.id}'"
    completions = tuple(_completions(record, gives, pictures, where))
    clean = [_clean(ref, where) for ref in prompt.images]
    return Example(
        prompt.id if isinstance(record, Candidates) else record.id,
        where,
        tuple(_turn(message, where) for message in prompt.messages),
        tuple(pictures.picture(ref) for ref in clean),
        completions,
        prompt.source,
        1.0 if isinstance(record, Candidates) else record.weight,
    )


def _noun(record: Record) -> str:
    if isinstance(record, PreferencePair):
        return "pair"
    return "candidates" if isinstance(record, Candidates) else "demonstration"


def _completions(record: Record, gives: Gives, pictures: Pictures, where: str) -> Iterator[RowCompletion]:
    if isinstance(record, PreferencePair) and gives == "pairs":
        yield _completion(record.chosen, record.annotations, pictures, where, preferred=True)
        for one in record.rejected:
            yield _completion(one, record.annotations, pictures, where, preferred=False)
    elif isinstance(record, PreferencePair) and gives == "demonstrations":
        yield _completion(record.chosen, (), pictures, where)
    elif isinstance(record, Demonstration) and gives == "demonstrations":
        yield _completion(record.completion, (), pictures, where)
    elif isinstance(record, Candidates) and gives == "candidates":
        given = {one.completion_id: one.scores.get("preference") for one in record.annotations if _is_given(one)}
        for one in record.completions:
            preference = given.get(one.id)
            preferred = None if preference is None else preference > 0
            yield _completion(one, record.annotations, pictures, where, preferred=preferred)
    else:
        raise DataError(f"{where} cannot be written as {gives}", "format")


def _completion(
    one: Completion,
    notes: Sequence[Annotation],
    pictures: Pictures,
    where: str,
    *,
    preferred: bool | None = None,
) -> RowCompletion:
    if IMAGE_MARK in one.text:
        raise DataError(f"{where}: a completion says '{IMAGE_MARK}', which rows use for where an image goes", "marks")
    note = next((note for note in notes if note.completion_id == one.id and not _is_given(note)), None)
    images = one.images if is_other_images(one) else None
    return RowCompletion(
        one.text.strip(),
        one.model,
        preferred,
        {} if note is None else dict(note.scores),
        "" if note is None else note.critique,
        None if images is None else tuple(map(pictures.picture, images)),
    )


def is_other_images(one: Completion) -> bool:
    """Whether a completion is trained on other images than the prompt's: a distorted view only says how it was made."""
    return one.images is not None and not any(image.distortion is not None for image in one.images)


def _is_given(note: Annotation) -> bool:
    return note.annotator == GIVEN and set(note.scores) == {"preference"}


def _clean(ref: ImageRef, where: str) -> ImageRef:
    if ref.distortion is not None:
        raise DataError(f"{where} shows a distorted image: datasets hold clean ones", "distorted")
    return ref


def _turn(message: Message, where: str) -> Turn:
    """A message with a mark for each of its images: where the text has them, else before it."""
    marks, images = message.text.count(IMAGE_MARK), len(message.images)
    if marks not in (0, images):
        raise DataError(f"{where}: a message says '{IMAGE_MARK}' {marks} times and has {images} images", "marks")
    text = message.text.strip()
    return Turn(message.role, text if marks else f"{IMAGE_MARK * images}\n{text}".strip() if images else text)


def lost_with(record: Record, gives: Gives) -> Iterator[str]:
    """What of a record no example has room for, each as the end of a sentence that begins with a number of records."""
    completions = _all_completions(record)
    texts = [*(message.text for message in record.prompt.messages), *(one.text for one in completions)]
    if any(text != text.strip() for text in texts):
        yield "have white space before or after a text, which is not kept"
    if isinstance(record, PreferencePair) and gives == "demonstrations":
        yield "have rejected completions, for which there is no room: the chosen one is written"
    if isinstance(record, PreferencePair) and record.contrast_images:
        yield "have contrast images, which are not written"
    if any(one.images is not None and not is_other_images(one) for one in completions):
        yield "have completions to distorted images: the text is written, how the image was distorted is not"
    if isinstance(record, Candidates) and record.images:
        yield "have other generated images, which are not written"
    strategy = "" if isinstance(record, Candidates) else record.strategy
    if strategy not in ("", GIVEN, "dataset"):
        yield "say by which strategy they were chosen, which is not written"
    if any(one.seed or one.finish_reason for one in completions):
        yield "say with which seeds completions were drawn and why they ended, which is not written"
    notes = () if isinstance(record, Demonstration) else record.annotations
    scored = [note.completion_id for note in notes if not _is_given(note)]
    if len(scored) != len(set(scored)):
        yield "have scores by several annotators: the first one's are written"


def _all_completions(record: Record) -> tuple[Completion, ...]:
    if isinstance(record, PreferencePair):
        return (record.chosen, *record.rejected)
    return (record.completion,) if isinstance(record, Demonstration) else record.completions
