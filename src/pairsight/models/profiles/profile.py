"""What a profile says: how pictures are shown to a model and how prompts are written for it, as plain options.

A profile is applied where prompts become tokens and pixels, so that build, align and evaluate see the same; what it
says is part of the fingerprint of the model that it is used with.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import to_jsonable_python

from pairsight.config import BaseConfig
from pairsight.errors import DataError
from pairsight.records import IMAGE_MARK, Message, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]


class Turns(BaseConfig):
    """How a dialogue is written: SYSTEM after_system USER after_role text after_user ASSISTANT after_role text …

    Up to the model's own turn, which begins with ASSISTANT before_answer. Text is tokenised in the pieces around
    images, each by itself, and joined with the images' placeholders; the tokenizer's start token comes once, at the
    beginning, whether or not the tokenizer adds it by itself.
    """

    user: str = Field("USER", min_length=1, description="the name of who asks")
    assistant: str = Field("ASSISTANT", min_length=1, description="the name of who answers")
    after_system: str = Field(" ", description="what follows the system sentence, where there is one")
    after_role: str = Field(": ", description="what is between a name and what is said")
    before_answer: str = Field(":", description="what follows the name of the assistant where its answer begins")
    after_user: str = Field(" ", description="what ends a turn of the user")
    after_assistant: str = Field("</s>", description="what ends a turn of the assistant")
    image_first: bool = Field(True, description="images come first in their turn, wherever its marks are")
    after_image: str = Field("\n", description="what follows an image")
    start_token: bool = Field(True, description="begin with the tokenizer's start token, where it has one")

    def arranged(self, message: Message) -> Message:
        """A message with one mark for each image, where they go, each followed by `after_image`.

        With `image_first`, text around marks loses its outer white space; text without marks stays as it is.

        Raises:
            DataError: marks for images that it does not have.
        """
        count, marks = len(message.images), message.text.count(IMAGE_MARK) if message.images else 0
        if marks not in (0, count):
            raise DataError(
                f"a message has {marks} {IMAGE_MARK} marks and {count} images; write one mark an image, or none",
                reason="image_marks",
            )
        shown = IMAGE_MARK + self.after_image
        if not marks:
            return replace(message, text=shown * count + message.text)
        if not self.image_first:
            return replace(message, text=message.text.replace(IMAGE_MARK, shown))
        return replace(message, text=shown * count + message.text.replace(IMAGE_MARK, "").strip())

    def pieces(self, messages: Sequence[Message], system: str) -> list[list[tuple[str, bool]]]:
        """The dialogue up to the model's turn, in the pieces between images: texts, and whether a message said them.

        Args:
            messages: the first one may be a system message, used instead of `system`.
            system: the profile's own.

        Raises:
            DataError: another role, or marks that do not fit the images.
        """
        pieces: list[list[tuple[str, bool]]] = [[]]
        if messages and messages[0].role == "system":
            system, messages = messages[0].text, messages[1:]
            pieces[0] += [(system, True), (self.after_system if system else "", False)]
        elif system:
            pieces[0] += [(system + self.after_system, False)]
        names = {"user": (self.user, self.after_user), "assistant": (self.assistant, self.after_assistant)}
        for message in messages:
            if message.role not in names:
                raise DataError(
                    f"a profile writes turns of user and assistant, below at most one system message; found a "
                    f"'{message.role}'",
                    reason="role",
                )
            name, end = names[message.role]
            pieces[-1].append((name + self.after_role, False))
            text = self.arranged(message).text
            parts = text.split(IMAGE_MARK) if message.images else [text]
            pieces[-1].append((parts[0], True))
            pieces += [[(part, True)] for part in parts[1:]]
            pieces[-1].append((end, False))
        pieces[-1].append((self.assistant + self.before_answer, False))
        return pieces

    def template(self, system: str) -> str:
        """The same as a chat template in Jinja, for servers; it does not move images within a turn."""
        names = {"user": (self.user, self.after_user), "assistant": (self.assistant, self.after_assistant)}
        begin = "".join(
            f"{{% {'if' if role == 'user' else 'elif'} message['role'] == '{role}' %}}"
            f"{{% set name, end = {_quoted(name + self.after_role)}, {_quoted(end)} %}}"
            for role, (name, end) in names.items()
        )
        image = f"{{{{ {_quoted(IMAGE_MARK + self.after_image)} }}}}"
        content = (
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
            "{% for part in message['content'] if part['type'] != 'text' %}" + image + "{% endfor %}"
            "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
        )
        return (
            "{% set system, turns, first = " + _quoted(system) + ", messages, messages[0]['content'] %}"
            "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
            "{% set system = first if first is string else first[0]['text'] %}{% endif %}"
            "{% if system %}{{ system + " + _quoted(self.after_system) + " }}{% endif %}"
            "{% for message in turns %}" + begin + "{% endif %}{{ name }}" + content + "{{ end }}{% endfor %}"
            "{% if add_generation_prompt %}{{ " + _quoted(self.assistant + self.before_answer) + " }}{% endif %}"
        )


class Profile(BaseConfig):
    """How a model family is used by its authors. What is not said is as the model's own folder has it."""

    name: str = Field("", max_length=80, description="what messages call it")
    system: str = Field("", description="the system sentence, unless a prompt has a system message of its own")
    turns: Turns | None = Field(None, description="how dialogues are written; default: by the model's chat template")
    pad: Literal["none", "square"] = Field("none", description="square: paste pictures centred on a square first")
    pad_colour: Colour | Literal["mean"] = Field(
        "mean", description="the square's colour: [red, green, blue], or int(255 · mean) of the model's image processor"
    )
    suffix: str = Field("", description="text that ends the last message, unless it ends so already")
    stop: tuple[str, ...] = Field((), description="texts that end a completion, beside the model's own end")
    chat_template: str = Field("", description="a chat template in Jinja, for a model whose folder has none")

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("a text that ends completions cannot be empty")
        return value

    @field_validator("pad_colour")
    @classmethod
    def _is_a_colour(cls, value: "Colour | str") -> "Colour | str":
        if not isinstance(value, str) and not all(0 <= part <= 255 for part in value):
            raise ValueError("a colour has three numbers from 0 to 255")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.pad_colour != "mean" and self.pad == "none":
            raise ValueError("pad_colour changes nothing without pad: square")
        if self.chat_template and self.turns is not None:
            raise ValueError("chat_template changes nothing beside turns, which say how prompts are written")
        if self.content() == "{}":
            raise ValueError("it says nothing: give system, turns, pad, suffix, stop or chat_template")
        return self

    def content(self) -> str:
        """What it says besides its name, as JSON, without what has its default: later options change no key."""
        plain = self.to_plain().items()
        usual = {name: to_jsonable_python(field.default) for name, field in Profile.model_fields.items()}
        said = {name: value for name, value in plain if name != "name" and value != usual[name]}
        return json.dumps(said, sort_keys=True)

    @property
    def writes_prompts(self) -> bool:
        """Whether a model needs no chat template of its own."""
        return self.turns is not None or bool(self.chat_template)

    def applied_to(self, fingerprint: str) -> str:
        """The fingerprint of a model that is used with this profile."""
        said = json.dumps([fingerprint, "profile", self.content()])
        return "sha256:" + hashlib.sha256(said.encode()).hexdigest()

    def is_same(self, other: "Profile | None") -> bool:
        """Whether both say the same, whatever they are called."""
        return other is not None and self.content() == other.content()

    def asked(self, prompt: Prompt) -> Prompt:
        """The prompt with the suffix and, for a model's own chat template, the system sentence."""
        *others, last = prompt.messages
        if self.suffix and not last.text.endswith(self.suffix):
            prompt = replace(prompt, messages=(*others, replace(last, text=last.text + self.suffix)))
        if self.system and self.turns is None and prompt.messages[0].role != "system":
            prompt = replace(prompt, messages=(Message("system", self.system), *prompt.messages))
        return prompt

    def shown(self, picture: "Image", mean: Sequence[float] = ()) -> "Image":
        """The picture as the model's image processor gets it: centred on a square of its longer side.

        Args:
            picture: RGB.
            mean: the image processor's, of channels from 0 to 1; not read where the colour is given in numbers.
        """
        if self.pad == "none" or picture.width == picture.height:
            return picture
        from PIL import Image

        if isinstance(self.pad_colour, str):
            red, green, blue = (int(255 * part) for part in mean)
        else:
            red, green, blue = self.pad_colour
        side = max(picture.size)
        square = Image.new("RGB", (side, side), (red, green, blue))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square


def _quoted(text: str) -> str:
    """A text as a literal of Jinja."""
    return json.dumps(text, ensure_ascii=False)
