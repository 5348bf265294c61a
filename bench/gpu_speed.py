"""One side's training of LLaVA-1.5-7B's shape, timed on this device; `gpu.py` starts it and hands it a `Job`.

The process imports its libraries, then waits for the job as one line of JSON on its input, so that this costs no time
on the card. Random bf16 weights are made on the card; every training starts from the same ones.

Timed on both sides is `train()` until the device is idle: ours tokenises, computes the reference once, checks its first
batch and trains; TRL processes images and text in worker processes as it goes and computes the reference every step.
Neither reads weights nor writes checkpoints or adapters in that time, and each had a warm-up of two steps.
"""

import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import card
from llava_shape import LLAVA_7B, SMALLEST, Item, build_items
from train_worker import Settings, our_pairs, trl_adapter, turn

SHAPES = {"llava-7b": LLAVA_7B, "tiny": SMALLEST}
WORDS = {"llava-7b": (50, 150), "tiny": (4, 8)}
"""Tokens of a completion, from and to."""
QUESTION = 36
"""Words of a question: about 40 tokens of text with the roles."""


@dataclass(frozen=True)
class Way:
    """How TRL trains: pairs in a forward pass, attention, whether activations are recomputed."""

    per_pass: int
    attention: str = "sdpa"
    checkpointing: bool = False


@dataclass(frozen=True)
class Job:
    """What a process measures.

    Args:
        world: the folder with model/, which has no weights, and images/.
        shape: a name in `SHAPES`.
        step: pairs per optimizer step.
        pairs: pairs per epoch; 0: as many as take about `seconds`, by the rate of the warm-up.
        ways: how TRL may train, in order; all that fit are tried if `search`, else the first that fits is taken. Of
            ours only the first one's pairs per pass are used, for the memory at as many pairs in a pass as TRL's.
        limit_bytes: memory that the process may use; 0: all.
    """

    world: str
    out: str
    shape: str
    epochs: int
    questions: int
    rejected: int
    rank: int
    projector: bool
    step: int
    pairs: int
    most_pairs: int
    seconds: float
    ways: tuple[Way, ...]
    search: bool
    limit_bytes: int = 0

    @classmethod
    def read(cls, line: str) -> "Job":
        """From a line of JSON."""
        plain = json.loads(line)
        return cls(**plain | {"ways": tuple(Way(**way) for way in plain["ways"])})

    @property
    def settings(self) -> Settings:
        """The options of both sides."""
        return Settings(5e-6, self.rank, 2.0 * self.rank, projector_rate=2e-5 if self.projector else None, bf16=True)

    def items(self, pairs: int) -> list[Item]:
        """The first prompts of the data, with so many pairs."""
        return build_items(
            Path(self.world) / "images",
            SHAPES[self.shape],
            pairs // self.rejected,
            questions_per_image=self.questions,
            rejected=self.rejected,
            words=WORDS[self.shape],
            question=QUESTION,
        )


@dataclass(frozen=True)
class Training:
    """One training: seconds, the moments after each optimizer step, and bytes."""

    pairs: int
    seconds: float
    step_seconds: tuple[float, ...]
    peak_bytes: int
    static_bytes: int

    @property
    def rate(self) -> float:
        """Pairs a second after the first step."""
        return self.pairs / (len(self.step_seconds) + 1) / (sum(self.step_seconds) / len(self.step_seconds))


def main(arguments: Sequence[str], line: str) -> None:
    if not line:  # the time was used up
        return
    side = {"ours": ours, "trl": trl}[arguments[0]]
    job, began = Job.read(line), time.perf_counter()
    if job.limit_bytes:
        card.limit_memory(job.limit_bytes)
    base = make_model(Path(job.world), torch.bfloat16)
    card.synchronize()
    found = {"model_seconds": time.perf_counter() - began}
    side(job, base, partial(report, Path(job.out), found))


def report(path: Path, found: dict[str, Any], **more: Any) -> None:
    """Add to what is known, and write it."""
    found |= more
    card.write_json(path, found)


def import_libraries(side: str) -> None:
    """Import what a side needs, before the clock and the card."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    if side == "trl":
        from trl import DPOConfig, DPOTrainer  # noqa: F401
    else:
        from pairsight.training import loop, scorer, trainer  # noqa: F401


def make_model(world: Path, dtype: torch.dtype) -> Any:
    """The model with random weights, on the device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    with torch.device(card.DEVICE):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(world / "model"), dtype=dtype)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model.eval().requires_grad_(False)


def fresh(base: Any, float32_modules: Sequence[str] = ()) -> Any:
    """A model of its own on the same frozen weights, some modules in float32."""
    model = copy.deepcopy(base, {id(weight): weight for weight in base.parameters()})
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in float32_modules:
            for key, weight in list(module.named_parameters()):
                owner = module.get_submodule(key.rpartition(".")[0])
                setattr(owner, key.rpartition(".")[2], torch.nn.Parameter(weight.detach().float(), False))
    return model


def timed(pairs: int, train: Callable[[], object], model: Callable[[], Any]) -> Training:
    """Run a training; `model` returns what it trains, afterwards."""
    moments: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    card.release()
    card.mark_peak()
    card.synchronize()
    began = time.perf_counter()
    try:
        train()
        card.synchronize()
    finally:
        hook.remove()
    seconds = time.perf_counter() - began
    steps = tuple(b - a for a, b in pairwise(moments))
    weights = list(model().parameters())
    static = sum(w.numel() * (w.element_size() + (8 if w.requires_grad else 0)) for w in weights)
    return Training(pairs, seconds, steps, card.peak_bytes(), static)


def pairs_for(job: Job, rate: float) -> int:
    """Pairs per epoch for about `job.seconds`, in full optimizer steps."""
    if job.pairs:
        return job.pairs
    wanted = round(rate * job.seconds / job.epochs / job.step) * job.step
    return min(max(wanted, 2 * job.step), job.most_pairs)


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(job: Job, base: Any, tell: Callable[..., None]) -> None:
    """Warm up, measure memory at TRL's pairs per pass, then measure."""
    warm = our_training(job, base, 2 * job.step, 1, None)
    tell(warmup=asdict(warm))
    if job.search:
        tokens = job.ways[0].per_pass * tokens_of_a_pair(job)
        tell(memory=asdict(our_training(job, base, 2 * job.step, 1, tokens)), memory_tokens_per_pass=tokens)
    pairs = pairs_for(job, warm.rate)
    tell(measured=asdict(our_training(job, base, pairs, job.epochs, None)))


def tokens_of_a_pair(job: Job) -> int:
    """The most tokens of a pair in a row: one more pair does not fit into the same limit."""
    lengths = [
        sum(len(text.split()) + 1 for text in (item.chosen, *item.rejected)) + len(item.question.split()) + 3
        for item in job.items(2 * job.step)
    ]
    return max(lengths) + SHAPES[job.shape].image_tokens


def our_training(job: Job, base: Any, pairs: int, epochs: int, tokens_per_pass: int | None) -> Training:
    """`PreferenceTrainer.train` on a model that is loaded already, without writing weights."""
    from pairsight.engine.progress import Progress
    from pairsight.models import load
    from pairsight.training import loop_base, trainer

    made: list[Any] = []

    def ready(*_: object, float32_modules: Sequence[str] = (), **__: object) -> Any:
        made.append(fresh(base, float32_modules))
        if float32_modules:
            load._state_dtype(made[-1], torch.bfloat16)
        return made[-1]

    records, images = our_pairs(Path(job.world), job.items(pairs))
    asked = {"projector_learning_rate": job.settings.projector_rate} if job.projector else {}
    asked |= {"max_tokens_per_pass": tokens_per_pass} if tokens_per_pass else {}
    before = load.load_model, trainer.write_adapter, loop_base.LoopBase._save_checkpoint
    load.load_model, trainer.write_adapter = ready, lambda *_: None
    loop_base.LoopBase._save_checkpoint = lambda *_: None  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory(prefix="pairsight-bench-") as out:
            ready_trainer = trainer.PreferenceTrainer(
                Path(job.world) / "model",
                out=out,
                images=images,
                progress=Progress("quiet"),
                per_device_train_batch_size=job.step // job.rejected,
                gradient_accumulation_steps=1,
                num_train_epochs=float(epochs),
                learning_rate=job.settings.rate,
                lora_r=job.settings.rank,
                lora_alpha=job.settings.alpha,
                group_by_image=job.questions > 1,
                bf16=True,
                save_steps=10**9,
                report_to=(),
                **asked,
            )
            return timed(pairs * epochs, partial(ready_trainer.train, records), lambda: made[0])
    finally:
        load.load_model, trainer.write_adapter, loop_base.LoopBase._save_checkpoint = before
        made.clear()
        card.release()


# --- TRL --------------------------------------------------------------------------------------------------------------


def trl(job: Job, base: Any, tell: Callable[..., None]) -> None:
    """Find the fastest way that fits, then measure it."""
    tried: list[dict[str, Any]] = []
    best, best_rate = None, 0.0
    for way in job.ways:
        if job.search and way.checkpointing and best is not None:
            break  # recomputing activations is only for what would not fit
        training = trl_training(job, base, way, 2 * job.step, 1)
        fits = training is not None
        tried.append(asdict(way) | {"fits": fits, "pairs_per_s": training.rate if training else 0.0})
        tell(tried=tried)
        if training is not None and training.rate > best_rate:
            best, best_rate = way, training.rate
        if best is not None and not job.search:
            break
    if best is None:
        raise SystemExit("TRL does not fit in any way that was tried")
    pairs = pairs_for(job, best_rate)
    training = trl_training(job, base, best, pairs, job.epochs)
    if training is None:
        raise SystemExit(f"TRL ran out of memory in its measured training with {best}")
    tell(measured=asdict(training), way=asdict(best), pairs=pairs)


def trl_training(job: Job, base: Any, way: Way, pairs: int, epochs: int) -> Training | None:
    """`DPOTrainer.train`; None if it does not fit."""

    def run() -> Training:
        trainer = trl_trainer(job, base, way, job.items(pairs), epochs)
        return timed(pairs * epochs, trainer.train, lambda: trainer.model)

    training = None
    with suppress(torch.OutOfMemoryError):
        training = run()
    card.release()  # outside, because the error holds what was on the device
    return training


def trl_trainer(job: Job, base: Any, way: Way, items: Sequence[Item], epochs: int) -> Any:
    """TRL's trainer on the items, one row per rejected completion."""
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    images = Path(job.world) / "images"
    rows = [
        {
            "images": [Image.open(images / item.image)],
            "prompt": [turn("user", {"type": "image"}, {"type": "text", "text": item.question})],
            "chosen": [turn("assistant", {"type": "text", "text": item.chosen})],
            "rejected": [turn("assistant", {"type": "text", "text": rejected})],
        }
        for item in items
        for rejected in item.rejected
    ]
    model = fresh(base)
    if way.attention != "sdpa":
        model.set_attn_implementation(way.attention)
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-bench-"),
        per_device_train_batch_size=way.per_pass,
        gradient_accumulation_steps=job.step // way.per_pass,
        num_train_epochs=epochs,
        learning_rate=job.settings.rate,
        max_length=None,
        gradient_checkpointing=way.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=True,
        use_cpu=card.DEVICE == "cpu",
        dataloader_num_workers=min(8, (os.cpu_count() or 1) // 2) if card.DEVICE == "cuda" else 0,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    return DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(Path(job.world) / "model"),
        peft_config=trl_adapter(replace(job.settings)),
    )


if __name__ == "__main__":
    import_libraries(sys.argv[1])
    main(sys.argv[1:], card.wait_for_turn())
