"""Start a training on many made-up pairs with a tiny model, and measure the start: `python bench/start_worker.py ...`.

Pairs have LLaVA's shape: 576 image tokens, questions of 20 words, two completions of 30 to 150 words; ten questions an
image. They are made when they are read, like pairs that are streamed from a file. The run is kept in the world, so that
a second process finds the tokens, and reference log-probs that are made up rather than computed. A training ends after
its first step.
"""

import argparse
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llava_shape import SPECIAL, TINY, build_items, build_model
from train_worker import memory

SHAPE = replace(TINY, pixels=336, patch=14)
IMAGES = 1_000
QUESTION, COMPLETION = 20, (30, 150)


class MadeUpPairs(Sequence[Any]):
    """Pairs that follow from their numbers."""

    def __init__(self, images: Any, count: int) -> None:
        self._refs = [images.ref(f"{number}.png") for number in range(min(IMAGES, count))]
        self._count = count
        words = [f"w{n}" for n in range(SHAPE.vocabulary - len(SPECIAL))]
        self._words = random.Random(0).choices(words, k=100_003)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        from pairsight.records import Completion, Message, PreferencePair, Prompt

        number = range(self._count)[index]
        shortest, longest = COMPLETION

        def text(salt: int, length: int) -> str:
            start = (number * 7919 + salt * 31337) % (len(self._words) - longest)
            return " ".join(self._words[start : start + length])

        image = self._refs[number // 10 % len(self._refs)]
        prompt = Prompt(f"p{number}", (Message("user", text(0, QUESTION), (image,)),))
        lengths = (shortest + (number * salt) % (longest - shortest + 1) for salt in (17, 41))
        chosen, rejected = (
            Completion(f"p{number}:{i}", prompt.id, text(1 + i, length), "stop", "m", 0, i)
            for i, length in enumerate(lengths)
        )
        return PreferencePair(prompt.id, prompt, chosen, (rejected,), "bench")

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(self._count))


class Peak:
    """The largest memory of this process's own while inside, without pages of mapped files, in bytes."""

    def __enter__(self) -> "Peak":
        self.largest, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.largest = max(self.largest, 1024 * memory("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the training: another one is another start on the same data")
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, help="that tokenise; default: as a user's training chooses")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    build_items(given.world / "images", SHAPE, min(IMAGES, given.pairs))
    if not (given.world / "model").is_dir():
        build_model(given.world / "model", SHAPE)
    print(json.dumps(started(given.world, given.pairs, given.name, given.processes)))


def cpu_seconds() -> float:
    """Of this process and those that it started and that ended."""
    return sum(os.times()[:4])


def watch(marks: dict[str, float]) -> None:
    """Note when the model is loaded, tokens are made and the first step begins; reference log-probs are made up."""
    from pairsight.models import load
    from pairsight.training import examples, loop, reference

    load_model, prepared, step = load.load_model, examples.prepared, loop.Loop.training_step

    def loaded(*arguments: Any, **options: Any) -> Any:
        model = load_model(*arguments, **options)
        marks["held"] = 1024 * memory("RssAnon")
        return model

    def timed(*arguments: Any, **options: Any) -> Any:
        began_here, began_cpu = time.perf_counter(), cpu_seconds()
        table = prepared(*arguments, **options)
        marks["tokenise_s"] = time.perf_counter() - began_here
        marks["tokenise_cpu_s"] = cpu_seconds() - began_cpu
        return table

    def first(*arguments: Any) -> Any:
        marks.setdefault("start_s", time.perf_counter() - marks["began"])
        return step(*arguments)

    def made_up(model: Any, scorer: Any, store: Any, *_: object) -> int:
        keys, chance = scorer.examples.keys_QB, np.random.default_rng(0)
        missing = np.flatnonzero(store.missing(keys)).tolist()
        for index in missing:
            store.add(keys[index].tobytes(), chance.normal(-1, 1, chance.integers(*COMPLETION)).astype(np.float32))
            if store.num_waiting > reference._MOST_WAITING:
                store.save()
        store.save()
        return len(missing)

    load.load_model, examples.prepared = loaded, timed
    loop.Loop.training_step, reference.compute_reference = first, made_up  # type: ignore[method-assign]


def started(world: Path, count: int, name: str, processes: int | None) -> dict[str, float]:
    """Seconds until the first step, those of tokenising, and the most memory above the loaded model."""
    import peft  # noqa: F401 - libraries are imported before the clock starts

    from pairsight.engine.progress import Progress
    from pairsight.images.source import FileImages
    from pairsight.store.run_folder import RunFolder
    from pairsight.training.trainer import PreferenceTrainer

    marks: dict[str, float] = {}
    watch(marks)
    run = RunFolder.create(world / f"run-{count}", {"recipe": "none"})
    images = FileImages(world / "images")
    trainer = PreferenceTrainer(
        world / "model",
        run=run.path,
        name=name,
        images=images,
        progress=Progress("quiet"),
        per_device_train_batch_size=4,
        max_steps=1,
        dataset_num_proc=processes,
        report_to=(),
    )
    pairs = MadeUpPairs(images, count)
    with Peak() as peak:
        marks["began"] = time.perf_counter()
        trainer.train(pairs)
    on_disk = sum(file.stat().st_size for part in ("tokens", "references") for file in (run.path / part).iterdir())
    return {
        "pairs": count,
        **{name: seconds for name, seconds in marks.items() if name.endswith("_s")},
        "memory": peak.largest - marks["held"],
        "bytes_on_disk": on_disk,
    }


if __name__ == "__main__":
    main()
