"""The tiny models' tokenizer: one token a word of the world, single letters and bytes for everything else.

A user's own prompt may hold any text: words that the world does not know become letters, other characters bytes,
so nothing is lost and nothing fails, though the models were not trained on it.
"""

import string
from typing import TYPE_CHECKING, Any

from pairsight.tiny.world.scenes import COLOURS, COLUMNS, ROWS, SHAPES
from pairsight.tiny.world.text_tasks import CATEGORIES, NUMBER_WORDS, OPPOSITES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
IMAGE, USER, ASSISTANT = "<image>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT)

_SPACE = "▁"  # marks a space before a word, as in SentencePiece
_TEMPLATE_WORDS = (
    "Is there a an in the image There is are nothing and Yes No Describe this image in detail What is List objects of "
    "How many are What colour Where is at Scene plus minus Which largest comes after before opposite Say backwards "
    "picture photo answer using single word or phrase Answer question with short it to can you see"
)
_WORD_SCORE, _PIECE_SCORE, _BYTE_SCORE = -1.0, -10.0, -20.0

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% else %}{{ '<|user|>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""One special token a role, the text, and the end mark after what the assistant said."""


def words() -> list[str]:
    """All words that are one token, sorted."""
    found = set(_TEMPLATE_WORDS.split()) | set(COLOURS) | set(ROWS) | set(COLUMNS) | set(NUMBER_WORDS)
    found |= {word for shape in SHAPES for word in (shape, shape + ("es" if shape == "cross" else "s"))}
    found |= {word for pair in OPPOSITES for word in pair}
    found |= set(CATEGORIES) | {word for members in CATEGORIES.values() for word in members}
    return sorted(found)


def build_tokenizer() -> "Tokenizer":
    """The tokenizer: special tokens, words, punctuation, letters and digits, then the 256 bytes.

    Source: ours, on SentencePiece's unigram model with byte fallback; scores only rank words before letters
    before bytes.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(_SPACE + word, _WORD_SCORE) for word in words()]
    pieces += [(mark, _WORD_SCORE) for mark in ".,?!:;'-"]
    pieces += [(character, _PIECE_SCORE) for character in (_SPACE, *string.ascii_letters, *string.digits)]
    pieces += [(f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=SPECIAL.index(UNK), byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def build_fast_tokenizer() -> Any:
    """The same as transformers' fast tokenizer: padding on the left, chat template, image token."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
