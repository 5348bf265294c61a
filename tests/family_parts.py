"""What the tiny models of `families` share: a byte tokenizer, chat templates, and sizes."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
HIDDEN = 32
SIZE = 28
PATCH = 7


def processor_tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def template(image_mark: str, stop: str = "</s>") -> str:
    """A chat template of lists of parts: role, image marks and texts in order, the stop token after every turn."""
    return (
        "{% for m in messages %}{{ m['role'] }}: "
        "{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + image_mark + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}" + stop + "\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )


TEXT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(*more: str, **named: str) -> PreTrainedTokenizerFast:
    """A byte tokenizer (any text, nothing unknown) with the special tokens given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    if more:
        fast.add_special_tokens({"additional_special_tokens": [*more]})
    return fast


def text_config(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **more,
    }


def vision_config(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": PATCH,
        **more,
    }
