"""Sampling 4 completions per prompt: our loop against `generate(num_return_sequences=4)` of transformers.

Same random LLaVA-shaped model, prompts and images, batch size, number of tokens (no stop token) and threads; runs are
interleaved and only ratios count. `python bench/sampling.py` prints one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from pairsight.models.load import quiet
from pairsight.models.local.decoding import Draws, join
from pairsight.models.local.processor import EncodedPrompt
from pairsight.models.local.sampling import draw
from pairsight.models.protocols import Sampling

IMAGE_TOKEN = 3
NUM_COMPLETIONS = 4


class NoTokenizer:
    """The part of a processor that sampling needs, at no cost: only tokens are timed on both sides."""

    pad_token_id = 0
    eos_token_id = None

    def decode(self, *_: object, **__: object) -> str:
        return ""


def llava(vocabulary: int) -> LlavaForConditionalGeneration:
    """336 pixels, 576 image tokens, hidden 512 × 6 layers, vision 256 × 6 layers."""
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "max_position_embeddings": 4096,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 256,
        },
        image_token_index=IMAGE_TOKEN,
    )
    with quiet():
        model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompts(count: int, vocabulary: int) -> list[EncodedPrompt]:
    """Prompts with an image of 576 tokens and about 25 text tokens each."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        text = torch.randint(4, vocabulary, (20 + number % 10,), generator=generator).tolist()
        pixels = torch.randn((1, 3, 336, 336), generator=generator)
        ids = [1, *[IMAGE_TOKEN] * 576, *text]
        made.append(EncodedPrompt(ids, {"pixel_values": pixels}, {}, (), ((1, 577),)))
    return made


def ours(model: Any, asked: list[EncodedPrompt], rows: int, sampling: Sampling) -> int:
    """The number of tokens sampled by our loop."""
    seeds = tuple(range(NUM_COMPLETIONS))
    drawn = draw(model, NoTokenizer(), [Draws(prompt, seeds) for prompt in asked], sampling, rows)
    return sum(len(one.token_ids) for group in drawn if isinstance(group, list) for one in group)


def theirs(model: Any, asked: list[EncodedPrompt], rows: int, sampling: Sampling) -> int:
    """The number of tokens sampled by `generate`, with the same batch size."""
    tokens = 0
    step = rows // NUM_COMPLETIONS
    ordered = sorted(asked, key=lambda prompt: -len(prompt.input_ids))
    for start in range(0, len(ordered), step):
        given = join(ordered[start : start + step], 0, model.device)
        with torch.no_grad():
            made = model.generate(
                **given,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                num_return_sequences=NUM_COMPLETIONS,
                max_new_tokens=sampling.max_new_tokens,
            )
        tokens += made[:, given["input_ids"].shape[1] :].numel()
    return tokens


def timed(run: Callable[..., int], *arguments: Any) -> tuple[float, int]:
    start = time.perf_counter()
    tokens = run(*arguments)
    return time.perf_counter() - start, tokens


def compare(num_prompts: int, rows: int, max_new_tokens: int, vocabulary: int, repeats: int) -> dict[str, Any]:
    """Medians of interleaved runs and the median of their ratios."""
    model = llava(vocabulary)
    asked = prompts(num_prompts, vocabulary)
    sampling = Sampling(temperature=0.7, max_new_tokens=max_new_tokens)
    warm = Sampling(temperature=0.7, max_new_tokens=2)
    for run in (ours, theirs):
        run(model, asked[: rows // NUM_COMPLETIONS], rows, warm)
    seconds: dict[str, list[float]] = {"ours": [], "generate": []}
    for _ in range(repeats):
        ours_s, ours_tokens = timed(ours, model, asked, rows, sampling)
        theirs_s, theirs_tokens = timed(theirs, model, asked, rows, sampling)
        if ours_tokens != theirs_tokens:
            raise SystemExit(f"unequal work: {ours_tokens} and {theirs_tokens} tokens")
        seconds["ours"].append(ours_s)
        seconds["generate"].append(theirs_s)
    ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(seconds["ours"], seconds["generate"], strict=True)]
    return {
        "sampling_ratio": statistics.median(ratios),
        "sampling_ratio_low": min(ratios),
        "sampling_ratio_high": max(ratios),
        "ours_s": statistics.median(seconds["ours"]),
        "generate_s": statistics.median(seconds["generate"]),
        "tokens": num_prompts * NUM_COMPLETIONS * max_new_tokens,
        "vocabulary": vocabulary,
        "rows": rows,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16, help="completions sampled at once")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = compare(given.prompts, given.rows, given.max_new_tokens, given.vocabulary, given.repeats)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
