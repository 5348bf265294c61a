"""What a dry run says of memory and arithmetic, beside what trainings take: `python bench/forecast.py [CASE ...]`.

Each case trains in a process of its own on the CPU, to its end. Its memory is the process's peak, as the system counts
it, less what it held when the model was loaded: until the adapters are made, for the reference, and from then on, for
the training. The forecast is made before, from the model's config and the same pairs, without the base's weights, too.
Operations are compared with the formulas of `flops.py`. A row is a line of the table in `docs/scaling.md`.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import flops
from llava_shape import Item, Shape, build_items, build_model
from train_worker import Start, memory, our_pairs

MIB = 2**20
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""Tensors are given back to the system when they are freed, so that the process's peak is what was alive together."""


@dataclass(frozen=True)
class Case:
    """A model's shape, its pairs, and options of the trainer."""

    shape: Shape
    prompts: int = 12
    options: dict[str, object] = field(default_factory=dict)


PLAIN: dict[str, object] = {"lora_r": 16, "lora_alpha": 32.0, "learning_rate": 1e-5, "bf16": False}
WIDE = Shape(4096, layers=4, pixels=224, vision_layers=3)
SMALL = Shape(2048, hidden=384, layers=8, heads=6, mlp=1024, pixels=224, vision_hidden=192, vision_layers=3)
CASES = {
    "plain": Case(WIDE, options=PLAIN),
    "checkpointing": Case(WIDE, options=PLAIN | {"gradient_checkpointing": True}),
    "bf16": Case(WIDE, options=PLAIN | {"bf16": True}),
    "bf16 checkpointing": Case(WIDE, options=PLAIN | {"bf16": True, "gradient_checkpointing": True}),
    "full": Case(WIDE, options={"tuning": "full", "learning_rate": 1e-5, "bf16": False}),
    "projector": Case(WIDE, options=PLAIN | {"projector_learning_rate": 1e-5}),
    "deep": Case(SMALL, 16, PLAIN),
    "deep, large passes": Case(SMALL, 16, PLAIN | {"max_tokens_per_pass": 4096}),
    "vocabulary": Case(Shape(32000, layers=2, pixels=224, vision_layers=3), 12, PLAIN),
}
TRAINING = {
    "per_device_train_batch_size": 4,
    "min_steps_per_epoch": 0,
    "num_train_epochs": 2,  # so that each batch is also met beside the optimizer's state
    "report_to": (),
    "save_steps": 10**9,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--measure", type=Path, help="in a process of its own: train the case in this folder")
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(CASES[given.cases[0]], given.measure)))
        return
    print("| case | phase | forecast MiB | measured MiB | ratio | operations by forecast / formula |")
    print("|---|---|---|---|---|---|")
    for name in given.cases or CASES:
        print(compare(name), flush=True)


def compare(name: str) -> str:
    """A case's rows: bytes of each phase by forecast and measured, and their ratio; the same for operations."""
    with tempfile.TemporaryDirectory(prefix="pairsight-forecast-") as folder:
        case, world = CASES[name], Path(folder)
        build_model(world / "model", case.shape)
        items = build_items(world / "images", case.shape, case.prompts)
        found = predicted(case, world, items)
        command = [sys.executable, __file__, name, "--measure", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ALLOCATOR})
        measured = json.loads(done.stdout)
    rows = []
    for phase in ("reference", "training"):
        ratio = found[phase] / measured[phase]
        of_all = f"{found['flops'] / found['formula']:.2f}" if phase == "training" else ""
        rows.append(f"| {name} | {phase} | {found[phase]:.0f} | {measured[phase]:.0f} | {ratio:.2f} | {of_all} |")
    return "\n".join(rows)


def predicted(case: Case, world: Path, items: list[Item]) -> dict[str, object]:
    """The forecast of a case, above its weights."""
    from pairsight.training.forecast.fake_training import Device
    from pairsight.training.forecast.forecast import forecast

    pairs, trainer = made(case, world / "dry", world, items)
    found = forecast(trainer, pairs, Device(on_gpu=False, memory=2**40))
    assert found.reference is not None
    weights = found.training.memory["weights"] + (
        found.training.memory["trained weights"] if case.options.get("tuning") == "full" else 0
    )
    flops.RANK = int(case.options.get("lora_r", 16))
    return {
        "reference": (found.reference.peak - found.reference.memory["weights"]) / MIB,
        "training": (found.training.peak - weights) / MIB,
        "flops": found.flops,
        "formula": flops.training(case.shape, items, 2),
    }


def made(case: Case, out: Path, world: Path, items: list[Item]) -> tuple[list[object], object]:
    """A case's pairs, and its trainer."""
    from pairsight.engine.progress import Progress
    from pairsight.training.trainer import PreferenceTrainer

    pairs, images = our_pairs(world, items)
    options = {**TRAINING, **case.options}
    trainer = PreferenceTrainer(world / "model", out=out, images=images, progress=Progress("quiet"), **options)
    return pairs, trainer


def measure(case: Case, world: Path) -> dict[str, float]:
    """Train; the peak of memory in each phase, MiB above that of the loaded model."""
    import peft  # noqa: F401 - libraries are imported before memory is measured

    from pairsight.models import load
    from pairsight.training import loop, policy, scorer  # noqa: F401

    start, found = Start(), {}
    load_model, make_policy = load.load_model, policy.make_policy

    def loaded(*arguments: object, **options: object) -> object:
        model = load_model(*arguments, **options)
        gc.collect()  # the model of the training before
        for weight in model.parameters():  # weights are mapped: read all, or they would count as the training's
            weight.sum()
        start.mark_memory()
        return model

    def adapted(*arguments: object, **options: object) -> object:
        found["reference"] = (memory("VmHWM") - start.held) / 1024
        Path("/proc/self/clear_refs").write_text("5")
        return make_policy(*arguments, **options)

    items = build_items(world / "images", case.shape, case.prompts)
    warm, trainer = made(case, world / "warm", world, items[:1])
    trainer.train(warm)  # what libraries allocate once is not the training's
    load.load_model, policy.make_policy = loaded, adapted
    pairs, trainer = made(case, world / "out", world, items)
    trainer.train(pairs)
    return {**found, "training": (memory("VmHWM") - start.held) / 1024}


if __name__ == "__main__":
    main()
