"""One timed training in a separate process: `python bench/train_worker.py SIDE --world DIR ...` prints JSON.

For us, everything from the files to the written adapter is timed: loading the model, tokenising, the reference pass,
the first-batch check and the epochs; for a peer only `trainer.train()`, with model and trainer created beforehand.
Memory is the process's peak minus what it held before: when our model was loaded, or the peer's trainer created.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from llava_shape import PROJECTIONS, Item, Shape, build_items

PER_PASS = 1
"""Pairs per forward pass of a peer: TRL's fastest of 1, 2 and 4 (`--per-pass`), because only the chosen and rejected
completion of one pair are then padded to each other."""


@dataclass(frozen=True)
class Settings:
    """The training settings of all sides.

    Args:
        rate: learning rate of the adapters.
        rank: rank of the adapters.
        alpha: the adapters' scale is alpha / rank.
        dropout: dropout of the adapters.
        projector_rate: learning rate of the projector; None: frozen.
        bf16: arithmetic in bfloat16.
        recipe: the recipe whose defaults these are; "" for none.
    """

    rate: float
    rank: int
    alpha: float
    dropout: float = 0.0
    projector_rate: float | None = None
    bf16: bool = False
    recipe: str = ""


PLAIN = Settings(rate=1e-5, rank=16, alpha=32.0)


def feedback() -> Settings:
    """The recipe's defaults; not used in ms-swift's environment, which does not have the recipe."""
    from pairsight.recipes.feedback import Feedback

    given = Feedback.default_training
    return Settings(
        given.learning_rate,
        given.lora_r,
        given.lora_alpha,
        given.lora_dropout,
        given.projector_learning_rate,
        recipe=Feedback.name,
    )


SETTINGS: dict[str, Callable[[], Settings]] = {
    "plain": lambda: PLAIN,
    "bf16": lambda: replace(PLAIN, bf16=True),
    "feedback": feedback,
}


@dataclass(frozen=True)
class Job:
    """One training, the same for every side.

    Args:
        world: the folder with model/ and images/.
        items: the training data.
        prompts_per_step: prompts per optimiser step; each has as many pairs as rejected completions.
        per_pass: pairs per forward pass of a peer.
    """

    world: Path
    items: list[Item]
    epochs: int
    prompts_per_step: int
    settings: Settings = PLAIN
    per_pass: int = PER_PASS

    @property
    def passes_per_step(self) -> int:
        """A peer's forward passes per optimiser step."""
        return self.prompts_per_step * len(self.items[0].rejected) // self.per_pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "grouped", "trl", "swift"))
    parser.add_argument("--settings", choices=SETTINGS, default="plain")
    parser.add_argument("--world", type=Path, required=True, help="a folder with model/ of this vocabulary")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--questions-per-image", type=int, default=1)
    parser.add_argument("--rejected", type=int, default=1)
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--per-pass", type=int, default=PER_PASS, help="pairs per forward pass of a peer")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    items = build_items(
        given.world / "images",
        Shape(given.vocabulary),
        given.prompts,
        questions_per_image=given.questions_per_image,
        rejected=given.rejected,
    )
    sides = {"ours": ours, "grouped": partial(ours, group_by_image=True), "trl": trl, "swift": swift}
    pairs = given.prompts * given.rejected
    start, prompts_per_step = Start(), given.pairs_per_step // given.rejected or 1
    settings = SETTINGS[given.settings]()
    train = sides[given.side](Job(given.world, items, given.epochs, prompts_per_step, settings, given.per_pass), start)
    start.mark_memory()
    began, began_cpu = time.perf_counter(), time.process_time()
    train()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = memory("VmHWM") - start.held
    found = {"pairs": pairs * given.epochs, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak / 1024}
    print(json.dumps(found | {"tree_seconds": start.seconds.total()}))


class Start:
    """The memory held when the measurement starts, and the seconds spent in counted functions."""

    held = 0

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def mark_memory(self) -> None:
        self.held = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current value

    def count(self, owner: object, name: str) -> None:
        """Accumulate the wall time of one of our functions."""
        function = getattr(owner, name)

        def counted(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] += time.perf_counter() - began  # type: ignore[assignment]
            return result

        setattr(owner, name, counted)


def ours(job: Job, start: Start, *, group_by_image: bool = False) -> Callable[[], object]:
    import tempfile

    import peft  # noqa: F401 - libraries are imported before the clock starts, as for TRL

    from pairsight.engine.progress import Progress
    from pairsight.models import load
    from pairsight.training import loop, scorer  # noqa: F401
    from pairsight.training.trainer import PreferenceTrainer

    load_model = load.load_model

    def marked(*arguments: object, **options: object) -> object:
        model = load_model(*arguments, **options)
        start.mark_memory()
        return model

    load_model(job.world / "model")
    load.load_model = marked
    for module, name in (
        (scorer, "plan_passes"),
        (scorer, "pack_row"),
        (scorer, "collate"),
        (scorer, "attention_masks"),
        (scorer, "row_layout"),
    ):
        start.count(module, name)

    pairs, images = our_pairs(job.world, job.items)
    trainer = PreferenceTrainer(
        job.world / "model",
        out=tempfile.mkdtemp(prefix="pairsight-bench-"),
        images=images,
        progress=Progress("quiet"),
        per_device_train_batch_size=job.prompts_per_step,
        gradient_accumulation_steps=1,
        num_train_epochs=float(job.epochs),
        group_by_image=group_by_image,
        bf16=job.settings.bf16,
        save_steps=10**9,
        report_to=(),
        **our_options(job.settings),
    )
    return partial(trainer.train, pairs)


def our_options(settings: Settings) -> dict[str, object]:
    """The settings as options of `PreferenceTrainer`; a recipe's defaults as given by `align`."""
    if settings.recipe:
        from pairsight.options import recipe_class

        return {"defaults": recipe_class(settings.recipe).default_training}  # type: ignore[attr-defined]
    return {"learning_rate": settings.rate, "lora_r": settings.rank, "lora_alpha": settings.alpha}


def our_pairs(world: Path, items: list[Item]) -> tuple[list[object], object]:
    """The items as preference pairs, and the source of their images."""
    from pairsight.images.source import FileImages
    from pairsight.records import Completion, Message, PreferencePair, Prompt

    images = FileImages(world / "images")
    pairs: list[object] = []
    for number, item in enumerate(items):
        prompt = Prompt(f"p{number}", (Message("user", item.question, (images.ref(item.image),)),))
        texts = (item.chosen, *item.rejected)
        chosen, *rejected = (
            Completion(f"p{number}:{i}", prompt.id, text, "stop", "m", 0, i) for i, text in enumerate(texts)
        )
        pairs.append(PreferencePair(prompt.id, prompt, chosen, tuple(rejected), "bench"))
    return pairs, images


def trl_adapter(settings: Settings) -> object:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=PROJECTIONS,
        modules_to_save=None if settings.projector_rate is None else ["multi_modal_projector"],
    )


def trl(job: Job, start: Start) -> Callable[[], object]:
    import tempfile

    from datasets import Dataset
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "images": [Image.open(job.world / "images" / item.image)],
            "prompt": [turn("user", {"type": "image"}, {"type": "text", "text": item.question})],
            "chosen": [turn("assistant", {"type": "text", "text": item.chosen})],
            "rejected": [turn("assistant", {"type": "text", "text": rejected})],
        }
        for item in job.items
        for rejected in item.rejected
    ]
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-bench-"),
        per_device_train_batch_size=job.per_pass,
        gradient_accumulation_steps=job.passes_per_step,
        num_train_epochs=job.epochs,
        learning_rate=job.settings.rate,
        max_length=None,
        gradient_checkpointing=False,
        disable_dropout=not job.settings.dropout,  # the default, True, would also disable the adapters' dropout
        bf16=job.settings.bf16,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    dtype = torch.bfloat16 if job.settings.bf16 else torch.float32
    trainer = DPOTrainer(
        AutoModelForImageTextToText.from_pretrained(job.world / "model", dtype=dtype),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(job.world / "model"),
        peft_config=trl_adapter(job.settings),
    )
    return trainer.train


def swift(job: Job, start: Start) -> Callable[[], object]:
    import swift_side

    if job.settings != PLAIN:
        raise SystemExit("ms-swift's side has only the settings 'plain'")
    lora = {"lora_rank": job.settings.rank, "lora_alpha": int(job.settings.alpha), "lora_dropout": 0}
    return swift_side.swift(
        job.world, job.items, job.epochs, job.per_pass, job.passes_per_step, job.settings.rate, lora
    )


def turn(role: str, *parts: dict[str, str]) -> dict[str, object]:
    return {"role": role, "content": list(parts)}


def memory(field: str) -> int:
    """A field of the process's status, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
