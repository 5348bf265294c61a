"""An example with its images found -> a pair, candidates or demonstrations; what cannot be learnt from is listed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, GivenReference, Gives, Picture, RowCompletion, Turn
from pairsight.formats.pairs import GIVEN
from pairsight.records import (
    IMAGE_MARK,
    Annotation,
    Candidates,
    Completion,
    Demonstration,
    Dropped,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
)

Made = PreferencePair | Candidates | Demonstration | Dropped | GivenReference
Refs = Mapping[Picture, ImageRef]
_Given = tuple[RowCompletion, Completion]


def records_of(example: Example, gives: Gives, refs: Refs, annotator: str) -> Iterator[Made]:
    """What one example gives, and what of it is left out.

    Args:
        example: of a row.
        gives: what its format gives.
        refs: the image of each of its pictures.
        annotator: who the scores are from.

    Raises:
        DataError: another number of `<image>` marks than images.
    """
    messages = messages_of(example.turns, [refs[one] for one in example.images], example.location)
    if gives == "demonstrations":
        yield from _demonstrations(example, messages)
        return
    prompt = Prompt(example.id, messages, example.source)
    made, empty = list[_Given](), list[Dropped]()
    for index, one in enumerate(example.completions):
        name = f"{example.id}:{index}"
        images = None if one.images is None else tuple(refs[picture] for picture in one.images)
        origin = None if images is None else "dataset"  # so that it is trained on these images
        completion = Completion(name, prompt.id, one.text.strip(), "", one.model, 0, index, images, origin)
        if completion.text:
            made.append((one, completion))
        else:
            which = {True: "chosen", False: "rejected"}.get(one.preferred, f"{index + 1}.")  # type: ignore[arg-type]
            empty.append(dropped(example, "empty_completion", f"the {which} completion is empty", name))
    found = (_candidates if gives == "candidates" else _pair)(example, prompt, made, annotator)
    if isinstance(found, Dropped):
        yield replace(empty[0], item_id=example.id) if empty else found
    else:
        yield from (*empty, found)
        yield from _reference(example, found)


def _reference(example: Example, found: PreferencePair | Candidates) -> Iterator[GivenReference]:
    """The log-probs that the row itself has of a pair on one rejected completion."""
    logps = [one.logps for one in example.completions]
    if isinstance(found, PreferencePair) and len(logps) == 2 and any(one is not None for one in logps):
        yield GivenReference(found.id, *logps)


def dropped(example: Example, reason: str, what: str, name: str = "") -> Dropped:
    """Something of an example that is left out."""
    return Dropped(name or example.id, "read", reason, f"{example.location}: {what}")


def messages_of(turns: Sequence[Turn], images: Sequence[ImageRef], location: str) -> tuple[Message, ...]:
    """Turns with their images; without any mark all images come before the first user turn.

    A mark that begins the text of a message with one image is taken away, as this is where such an image goes.

    Raises:
        DataError: another number of marks than images.
    """
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks not in (0, len(images)):
        raise DataError(f"{location} has {marks} {IMAGE_MARK} marks for {len(images)} images", "image_marks")
    left, messages = list(images), list[Message]()
    for turn in turns:
        count = turn.text.count(IMAGE_MARK) if marks else len(left) if turn.role == "user" else 0
        own, left = tuple(left[:count]), left[count:]
        text = turn.text.strip()
        if count == 1 and text.startswith(IMAGE_MARK):
            text = text.removeprefix(IMAGE_MARK).strip()
        messages.append(Message(turn.role, text, own))
    return tuple(messages)


def _pair(example: Example, prompt: Prompt, made: Sequence[_Given], annotator: str) -> PreferencePair | Dropped:
    chosen = [completion for one, completion in made if one.preferred is True]
    rejected = [completion for one, completion in made if one.preferred is False]
    if len(chosen) != 1 or not rejected:
        what = f"{len(chosen)} chosen and {len(rejected)} rejected completions make no pair"
        return dropped(example, "no_preference", what)
    others = tuple(one for one in rejected if (one.text, one.images) != (chosen[0].text, chosen[0].images))
    if not others:
        return dropped(example, "identical", "chosen and rejected say the same")
    kept = {chosen[0].id, *(one.id for one in others)}
    notes = tuple(
        note for one, completion in made if completion.id in kept for note in _scores(one, completion, annotator)
    )
    return PreferencePair(example.id, prompt, chosen[0], others, GIVEN, notes, weight=example.weight)


def _candidates(example: Example, prompt: Prompt, made: Sequence[_Given], annotator: str) -> Candidates | Dropped:
    if len(made) < 2:
        return dropped(example, "too_few_completions", f"two completions are needed, found {len(made)}")
    notes = [note for one, completion in made for note in _scores(one, completion, annotator)]
    notes += [
        Annotation(completion.id, GIVEN, {"preference": float(one.preferred)})
        for one, completion in made
        if one.preferred is not None
    ]
    return Candidates(prompt, tuple(completion for _, completion in made), tuple(notes))


def _scores(one: RowCompletion, completion: Completion, annotator: str) -> list[Annotation]:
    return [Annotation(completion.id, annotator, dict(one.scores), one.critique)] if one.scores else []


def _demonstrations(example: Example, messages: Sequence[Message]) -> Iterator[Demonstration | Dropped]:
    """One for every assistant turn, each on what was said before it."""
    (last,) = example.completions
    said = [*messages, Message("assistant", last.text.strip())]
    places = [index for index, message in enumerate(said) if message.role == "assistant"]
    for number, index in enumerate(places, start=1):
        name = example.id if len(places) == 1 else f"{example.id}#turn-{number}"
        if not said[index].text:
            yield dropped(example, "empty_completion", f"answer {number} is empty", name)
        elif not any(message.role == "user" for message in said[:index]):
            yield dropped(example, "no_turns", f"answer {number} comes before any question", name)
        else:
            prompt = Prompt(name, tuple(said[:index]), example.source)
            completion = Completion(f"{name}:0", name, said[index].text, "", last.model, 0, 0, derived_from="dataset")
            yield Demonstration(name, prompt, completion, "dataset", example.weight)
