"""One timed training in a process of its own: `python bench/train_worker.py SIDE --world DIR ...` prints JSON.

Timed is everything from loaded model to trained weights: for us tokenising, the reference pass and the epochs; for
TRL `trainer.train()`, with its data set made beforehand. Memory is the peak of the process less what it held before.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from llava_shape import Item, Shape, build_items

LORA = {"lora_r": 16, "lora_alpha": 32.0}
RATE = 1e-5
PER_PASS = 1
"""Pairs of a peer's forward pass: of 1, 2 and 4 (`--per-pass`) TRL's fastest, for nothing is padded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "trl", "swift"))
    parser.add_argument("--world", type=Path, required=True, help="a folder with model/ for this vocabulary")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--questions-per-image", type=int, default=1)
    parser.add_argument("--rejected", type=int, default=1)
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--per-pass", type=int, default=PER_PASS, help="pairs of a peer's forward pass")
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
    peers = {"trl": trl, "swift": swift}
    side = partial(peers[given.side], per_pass=given.per_pass) if given.side in peers else ours
    pairs = given.prompts * given.rejected
    start = Start()
    train = side(given.world, items, given.epochs, given.pairs_per_step // given.rejected or 1, start)
    start.mark_memory()
    began, began_cpu = time.perf_counter(), time.process_time()
    train()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = memory("VmHWM") - start.held
    found = {"pairs": pairs * given.epochs, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak / 1024}
    print(json.dumps(found | {"tree_seconds": start.seconds.total()}))


class Start:
    """What the process held when its model was loaded, from where its peak counts; seconds spent on trees."""

    held = 0

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def mark_memory(self) -> None:
        self.held = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is held now

    def count(self, owner: object, name: str) -> None:
        """Add up the wall time that a function of ours takes."""
        function = getattr(owner, name)

        def counted(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] += time.perf_counter() - began  # type: ignore[assignment]
            return result

        setattr(owner, name, counted)


def ours(world: Path, items: list[Item], epochs: int, prompts_per_step: int, start: Start) -> Callable[[], object]:
    import tempfile

    import peft  # noqa: F401 - libraries are imported before the clock starts, as for TRL

    from pairsight.engine.progress import Progress
    from pairsight.images.files import FileImages
    from pairsight.models import load
    from pairsight.records import Completion, Message, PreferencePair, Prompt
    from pairsight.training import logps, loop, scorer  # noqa: F401
    from pairsight.training.trainer import PreferenceTrainer

    load_model = load.load_model

    def marked(*arguments: object, **options: object) -> object:
        model = load_model(*arguments, **options)
        start.mark_memory()
        return model

    load_model(world / "model")
    load.load_model = marked
    for module, name in (
        (scorer, "plan_passes"),
        (scorer, "pack_row"),
        (scorer, "collate"),
        (logps, "attention_masks"),
    ):
        start.count(module, name)

    images = FileImages(world / "images")
    pairs = []
    for number, item in enumerate(items):
        prompt = Prompt(f"p{number}", (Message("user", item.question, (images.ref(item.image),)),))
        texts = (item.chosen, *item.rejected)
        made = [Completion(f"p{number}:{i}", prompt.id, text, "stop", "m", 0, i) for i, text in enumerate(texts)]
        pairs.append(PreferencePair(prompt.id, prompt, made[0], tuple(made[1:]), "bench"))
    out = tempfile.mkdtemp(prefix="pairsight-bench-")
    made = PreferenceTrainer(
        world / "model",
        out=out,
        images=images,
        progress=Progress("quiet"),
        learning_rate=RATE,
        per_device_train_batch_size=prompts_per_step,
        num_train_epochs=float(epochs),
        group_by_image=True,
        save_steps=10**9,
        report_to=(),
        **LORA,
    )
    return lambda: made.train(pairs)


def trl(  # noqa: PLR0917
    world: Path, items: list[Item], epochs: int, prompts_per_step: int, start: Start, per_pass: int
) -> Callable[[], object]:
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "images": [Image.open(world / "images" / item.image)],
            "prompt": [turn("user", {"type": "image"}, {"type": "text", "text": item.question})],
            "chosen": [turn("assistant", {"type": "text", "text": item.chosen})],
            "rejected": [turn("assistant", {"type": "text", "text": rejected})],
        }
        for item in items
        for rejected in item.rejected
    ]
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-bench-"),
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=prompts_per_step * len(items[0].rejected) // per_pass,
        num_train_epochs=epochs,
        learning_rate=RATE,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    lora = LoraConfig(
        r=LORA["lora_r"], lora_alpha=LORA["lora_alpha"], target_modules=rf".*language_model.*\.({layers})"
    )
    trainer = DPOTrainer(
        AutoModelForImageTextToText.from_pretrained(world / "model"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(world / "model"),
        peft_config=lora,
    )
    return trainer.train


def swift(  # noqa: PLR0917
    world: Path, items: list[Item], epochs: int, prompts_per_step: int, start: Start, per_pass: int
) -> Callable[[], object]:
    import swift_side

    accumulation = prompts_per_step * len(items[0].rejected) // per_pass
    return swift_side.swift(world, items, epochs, per_pass, accumulation, RATE, LORA)


def turn(role: str, *parts: dict[str, str]) -> dict[str, object]:
    return {"role": role, "content": list(parts)}


def memory(field: str) -> int:
    """A line of the process's status, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
