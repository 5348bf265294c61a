"""A prompt as a profile writes it: tokenised in the pieces around its images, joined with these between them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pairsight.errors import DataError, ModelError, one_line
from pairsight.models.load import quiet
from pairsight.models.local.chat import tokenizer_of
from pairsight.models.profiles.profile import Profile
from pairsight.records import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


def written_inputs(
    processor: Any,
    profile: Profile,
    prompt: Prompt,
    pictures: "Sequence[Image]",
    *,
    control: str | None,
    form: Mapping[str, str],
) -> Any:
    """The processor's output, one row, with the tokens of the prompt as the profile writes it.

    Args:
        processor: from `load_processor`.
        profile: that has turns.
        prompt: as it is asked.
        pictures: its images, as they are shown.
        control: a control token of the model in the prompt's text, which stays text.
        form: options of the processor.

    Raises:
        DataError: what the processor refuses, or a control token in a dialogue whose turns the profile ends by one.
        ModelError: a family whose tokens have types, which a profile cannot write.
    """
    assert profile.turns is not None
    tokenizer = tokenizer_of(processor)
    try:
        pieces = profile.turns.pieces(prompt.messages, profile.system)
    except DataError as error:
        raise DataError(f"prompt '{prompt.id}': {error}", error.reason) from None
    if control is not None and any(_writes_control(tokenizer, piece) for piece in pieces):
        raise DataError(
            f"prompt '{prompt.id}' contains '{control}', a control token of this model, and turns that the profile "
            f"'{profile.name}' ends by one; remove it",
            reason="control_token",
        )
    inputs, images = _seen(processor, prompt, pictures, form) if pictures else ({}, [])
    start = tokenizer.bos_token_id
    ids: list[int] = [start] if profile.turns.start_token and start is not None else []
    for number, piece in enumerate(pieces):
        if number:
            ids += tokenizer(images[number - 1], add_special_tokens=False)["input_ids"]
        text = "".join(said for said, _ in piece)
        ids += tokenizer(text, add_special_tokens=False, split_special_tokens=control is not None)["input_ids"]
    return {**inputs, "input_ids": [ids]}


def _writes_control(tokenizer: Any, piece: Sequence[tuple[str, bool]]) -> bool:
    """Whether the profile itself writes a special token in a piece."""
    written = [text for text, said in piece if not said]
    return any(str(token) in text for token in tokenizer.added_tokens_encoder for text in written)


def _seen(
    processor: Any, prompt: Prompt, pictures: "Sequence[Image]", form: Mapping[str, str]
) -> tuple[Any, list[str]]:
    """What the processor makes of pictures, and the text of placeholders that it puts for each."""
    mark = processor.image_token
    with quiet():
        try:
            made = dict(
                processor(
                    text=[mark * len(pictures)],
                    images=list(pictures),
                    add_special_tokens=False,
                    return_text_replacement_offsets=True,
                    **form,
                )
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise DataError(
                f"prompt '{prompt.id}': the model's processor refuses its images: {one_line(error)}", reason="refused"
            ) from None
    if typed := [name for name in made if name.endswith("token_type_ids")]:
        raise ModelError(f"a profile with turns cannot write prompts for this family, whose tokens have {typed[0]}")
    return made, [found["replacement"] for found in made["text_replacement_offsets"][0]]
