"""Chat templates by name, for models whose folder has none: Vicuna, LLaMA-2 chat, and plain text.

Each is Jinja, rendered in the sandbox of transformers. It takes messages whose content is a text or a list of parts;
images come first in their message, as `<image>` and a line break. It begins with the tokenizer's start token.

Source: the conversation formats of FastChat's Vicuna 1.1 and later and of Meta's LLaMA-2 chat, as published.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pairsight.bounded import read_bounded
from pairsight.errors import ConfigError, did_you_mean, one_line

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BEGINNING = "{{ bos_token }}"
"""How each template begins; a processor that adds the token itself takes the rest."""
_MOST_BYTES = 1 << 17

_SAID = (
    "{%- macro said(message) -%}{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_SYSTEM = (
    "{%- set system, turns = DEFAULT, messages -%}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system, turns = said(messages[0]), messages[1:] -%}{%- endif -%}"
)
_REFUSED = "{%- else -%}{{ raise_exception('it writes turns of user and assistant, found ' ~ message['role']) }}"

_VICUNA = (
    BEGINNING + _SAID + _SYSTEM.replace("DEFAULT", '"' + VICUNA_SYSTEM + '"') + "{{ system ~ ' ' if system else '' }}"
    "{%- for message in turns -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' ~ said(message) ~ ' ' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'ASSISTANT: ' ~ said(message) ~ '</s>' }}"
    + _REFUSED + "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)  # fmt: skip
_LLAMA_2 = (
    _SAID + _SYSTEM.replace("DEFAULT", "''") + "{%- for message in turns -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{ bos_token ~ '[INST] ' ~ ('<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' if loop.first and system else '')"
    " ~ said(message) | trim ~ ' [/INST]' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ ' ' ~ said(message) | trim ~ ' ' ~ eos_token }}"
    + _REFUSED + "{%- endif -%}{%- endfor -%}"
)  # fmt: skip
_PLAIN = (
    BEGINNING + _SAID + "{%- for message in messages -%}"
    "{{ said(message) ~ (eos_token if message['role'] == 'assistant' else '\\n') }}{%- endfor -%}"
)

TEMPLATES: Mapping[str, str] = MappingProxyType({"vicuna_v1": _VICUNA, "llama-2": _LLAMA_2, "plain": _PLAIN})
"""Name -> template in Jinja."""


def named_template(asked: str) -> str:
    """The template of a name, or in a file.

    Args:
        asked: one of `TEMPLATES`, or the path of a Jinja file (`*.jinja`, `*.txt`).

    Raises:
        ConfigError: an unknown name, or a file that is missing, too long or not Jinja.
    """
    if asked in TEMPLATES:
        return TEMPLATES[asked]
    path = Path(asked).expanduser()
    if path.suffix not in (".jinja", ".jinja2", ".txt") and not path.is_file():
        hint = did_you_mean(asked, list(TEMPLATES))
        raise ConfigError(f"chat template '{one_line(asked, 80)}' is unknown{hint}, or give the path of a *.jinja file")
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        text = read_bounded(path, _MOST_BYTES)
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except OSError as error:
        raise ConfigError(f"chat template {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"chat template {path}: {one_line(error)}") from None
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"chat template {path}: line {error.lineno} is not Jinja: {one_line(error.message)}"
        ) from None
    if not text.strip():
        raise ConfigError(f"chat template {path} is empty")
    return text
