"""Train the tiny scorers from scratch: `python -m pairsight.tiny.train.scorers --out DIR`.

CLIP by contrast between pictures and captions; BLIP by contrast and by matching against edited captions; ImageReward by
Bradley-Terry on two pictures of one text, as its authors rank, and on two texts of one picture; the reward model by
Bradley-Terry on two captions of a scene that it does not see, so that it knows what is usually true, and no more. The
vision towers also learn what each cell shows, with heads thrown away after it. Scenes are of the part "train";
accuracy is measured on "validation".
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from pairsight.models.scorers.image_reward_model import to_released
from pairsight.tiny.models import scorer_shapes as shapes
from pairsight.tiny.train.resumable import Log, Stepper, start_log, train_steps
from pairsight.tiny.train.scorer_data import (
    CellLabels,
    Example,
    Pictures,
    draw_pictures,
    edited,
    generator,
    picture_all,
    sibling,
    true_caption,
    wording,
)
from pairsight.tiny.world.questions import CAPTION_PROMPTS
from pairsight.tiny.world.vocabulary import build_fast_tokenizer

STEPS = {"clip": 800, "blip": 1500, "image_reward": 1500, "reward": 500}
_BATCH = 64
_PICTURES = 16_000


def train_clip(seed: int, pictures: Pictures, checkpoint: Path, log: Log) -> Any:
    """Each picture must find its caption among the batch's, and each caption its picture."""
    model, tokenizer, steps = shapes.build_clip().train(), shapes.caption_tokenizer(), STEPS["clip"]
    cells = CellLabels(model.config.vision_config.hidden_size)
    stepper = Stepper([{"params": [*model.parameters(), *cells.parameters()], "lr": 1e-3}], steps)
    targets = torch.arange(2 * _BATCH)

    def step(index: int) -> None:
        rng = generator(seed, index)
        chosen = pictures.choose(rng, 2 * _BATCH)
        tokens = _tokens(tokenizer, [wording(true_caption(pictures.scenes[i], rng), rng) for i in chosen])
        out = model(**tokens, pixel_values=pictures.batch(chosen, rng))
        logits = out.logits_per_image
        lesson = cells(out.vision_model_output.last_hidden_state, pictures.labels[chosen])
        stepper.step(cross_entropy(logits, targets) + cross_entropy(logits.T, targets) + lesson)
        if index % 100 == 0:
            log(f"clip {index}: {(logits.argmax(1) == targets).float().mean():.3f} found, cells {lesson:.3f}")

    train_steps(checkpoint, steps, {"model": model, "cells": cells, "stepper": stepper}, step)
    return model.eval()


def train_blip(seed: int, pictures: Pictures, checkpoint: Path, log: Log) -> Any:
    """Contrast as CLIP's, and whether a caption, true or edited, matches its picture."""
    model, tokenizer, steps = shapes.build_blip().train(), shapes.caption_tokenizer(), STEPS["blip"]
    cells = CellLabels(model.config.vision_config.hidden_size)
    temperature = torch.nn.ParameterDict({"log": torch.tensor(2.65)})
    parts = {"model": model, "cells": cells, "temperature": temperature}
    stepper = Stepper([{"params": [p for part in parts.values() for p in part.parameters()], "lr": 1e-3}], steps)
    targets, labels = torch.arange(_BATCH), torch.tensor([1] * _BATCH + [0] * _BATCH)

    def step(index: int) -> None:
        rng = generator(seed, 10_000_000 + index)
        chosen = pictures.choose(rng, _BATCH)
        true = [true_caption(pictures.scenes[i], rng) for i in chosen]
        wrong = [edited(one.scene, one.kinds, rng, 1 + int(rng.random() < 0.2)) for one in true]
        seen = model.vision_model(pixel_values=pictures.batch(chosen, rng)).last_hidden_state
        texts = _tokens(tokenizer, [wording(one, rng) for one in (*true, *wrong)])
        matches = model.itm_head(_blip_text(model, texts, torch.cat([seen, seen]))[:, 0])
        alone = {name: tensor[:_BATCH] for name, tensor in texts.items()}
        words = normalize(model.text_proj(model.text_encoder(**alone).last_hidden_state[:, 0]), dim=-1)
        logits = temperature["log"].exp() * normalize(model.vision_proj(seen[:, 0]), dim=-1) @ words.T
        contrast = cross_entropy(logits, targets) + cross_entropy(logits.T, targets)
        lesson = cells(seen, pictures.labels[chosen])
        stepper.step(cross_entropy(matches, labels) + 0.5 * contrast + lesson)
        if index % 100 == 0:
            right = (matches.argmax(1) == labels).float().mean()
            log(f"blip {index}: {right:.3f} of matches right, cells {lesson:.3f}")

    train_steps(checkpoint, steps, {**parts, "stepper": stepper}, step)
    return model.eval()


def train_image_reward(seed: int, pictures: Pictures, checkpoint: Path, log: Log) -> Any:
    """−log σ(better reward − worse reward), of two pictures of one text, and as often of two texts of one picture."""
    model, tokenizer, steps = shapes.build_image_reward().train(), shapes.caption_tokenizer(), STEPS["image_reward"]
    cells = CellLabels(model.vision.config.hidden_size)
    stepper = Stepper([{"params": [*model.parameters(), *cells.parameters()], "lr": 1e-3}], steps)
    rng_of_siblings = generator(seed, 40_000_000)
    siblings = picture_all(tuple(sibling(one, rng_of_siblings) for one in pictures.scenes))
    half = _BATCH // 2
    seen: list[Tensor] = []
    model.vision.register_forward_hook(lambda _module, _given, made: seen.append(made.last_hidden_state))

    def step(index: int) -> None:
        rng = generator(seed, 20_000_000 + index)
        chosen = pictures.choose(rng, _BATCH)
        better, worse = zip(*(_two_texts(pictures.scenes[i], rng) for i in chosen[half:]), strict=True)
        complete = [wording(true_caption(pictures.scenes[i], rng), rng) for i in chosen[:half]]
        texts = _tokens(tokenizer, complete + [wording(one, rng) for one in better])
        others = _tokens(tokenizer, complete + [wording(one, rng) for one in worse])
        pixels, wrong = pictures.batch(chosen, rng), siblings.batch(chosen[:half], rng)
        good = model(texts["input_ids"], texts["attention_mask"], pixels)
        bad = model(others["input_ids"], others["attention_mask"], torch.cat([wrong, pixels[half:]]))
        seen.pop()
        lesson = cells(seen.pop(), pictures.labels[chosen])
        stepper.step(-logsigmoid(good - bad).mean() + lesson)
        if index % 100 == 0:
            log(f"image_reward {index}: {(good > bad).float().mean():.3f} of pairs right, cells {lesson:.3f}")

    train_steps(checkpoint, steps, {"model": model, "cells": cells, "stepper": stepper}, step)
    return model.eval()


def train_reward_model(seed: int, pictures: Pictures, checkpoint: Path, log: Log) -> Any:
    """−log σ(r(better caption) − r(worse caption)), the picture unseen."""
    model, tokenizer, steps = shapes.build_reward_model().train(), build_fast_tokenizer(), STEPS["reward"]
    stepper = Stepper([{"params": list(model.parameters()), "lr": 2e-3}], steps)

    def step(index: int) -> None:
        rng = generator(seed, 30_000_000 + index)
        pairs = [_two_texts(pictures.scenes[i], rng) for i in pictures.choose(rng, _BATCH)]
        dialogues = [_dialogue(tokenizer, one, rng) for side in zip(*pairs, strict=True) for one in side]
        rewards = model(**_tokens(tokenizer, dialogues)).logits[:, 0]
        margin = rewards[:_BATCH] - rewards[_BATCH:]
        stepper.step(-logsigmoid(margin).mean())
        if index % 100 == 0:
            log(f"reward {index}: {(margin > 0).float().mean():.3f} of pairs right")

    train_steps(checkpoint, steps, {"model": model, "stepper": stepper}, step)
    return model.eval()


def save_scorers(out: Path, clip: Any, blip: Any, image_reward: Any, reward: Any) -> None:
    """Four folders of half-precision safetensors with their processors, as the scorers load them."""
    clip.half().save_pretrained(out / "clip")
    shapes.clip_processor().save_pretrained(out / "clip")
    blip.half().save_pretrained(out / "blip")
    shapes.blip_processor().save_pretrained(out / "blip")
    folder = out / "image_reward"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_released(image_reward.half()), folder / "model.safetensors", {"format": "pt"})
    shapes.caption_tokenizer().save_pretrained(folder)
    reward.half().save_pretrained(out / "reward")
    build_fast_tokenizer().save_pretrained(out / "reward")
    for file in out.glob("*/*"):
        file.chmod(0o644)


def _two_texts(scene: Any, rng: np.random.Generator) -> tuple[Example, Example]:
    """Two texts for one picture, the better first: fewer edits away from the truth, often none."""
    true = true_caption(scene, rng)
    fewer = 0 if rng.random() < 0.6 else 1
    while True:
        first = edited(scene, true.kinds, rng, fewer) if fewer else true
        second = edited(scene, true.kinds, rng, fewer + 1 + int(rng.integers(2)))
        if first.quality != second.quality:
            return (first, second) if first.quality > second.quality else (second, first)


def _dialogue(tokenizer: Any, example: Example, rng: np.random.Generator) -> str:
    from pairsight.tiny.world.captions import word_caption

    question = CAPTION_PROMPTS[int(rng.integers(len(CAPTION_PROMPTS)))]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": word_caption(example.kinds)}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    return text


def _blip_text(model: Any, texts: dict[str, Tensor], patches: Tensor) -> Tensor:
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    states: Tensor = model.text_encoder(
        **texts, encoder_hidden_states=patches, encoder_attention_mask=mask
    ).last_hidden_state
    return states


def _tokens(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    batch = tokenizer(
        list(texts), padding=True, truncation=True, max_length=tokenizer.model_max_length,
        return_tensors="pt", padding_side="right", add_special_tokens=not texts[0].startswith("<s>"),
    )  # fmt: skip
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def main() -> None:
    """Read the command line, train, save and measure."""
    parser = argparse.ArgumentParser(prog="python -m pairsight.tiny.train.scorers")
    parser.add_argument("--out", type=Path, required=True, help="a folder for clip/, blip/, image_reward/ and reward/")
    parser.add_argument("--seed", type=int, default=1, help="of weights, scenes and noise")
    parser.add_argument("--threads", type=int, default=1, help="the order of sums depends on it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = start_log()
    pictures = draw_pictures(options.seed, _PICTURES)
    work = options.out.with_name(f"{options.out.name}.work")
    makers = {
        "reward": train_reward_model,
        "clip": train_clip,
        "blip": train_blip,
        "image_reward": train_image_reward,
    }
    made = {}
    for name, make in makers.items():
        torch.manual_seed(options.seed)
        made[name] = make(options.seed, pictures, work / f"{name}.safetensors", log)
    save_scorers(options.out, **made)
    from pairsight.tiny.train.scorer_card import measure_scorers, write_scorer_cards

    measured = measure_scorers(options.out)
    write_scorer_cards(options.out, options.seed, STEPS, measured)
    log(json.dumps(measured))


if __name__ == "__main__":
    main()
