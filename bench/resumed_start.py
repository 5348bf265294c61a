"""Time the start of a resumed build: prompts and images are read again, and every item is found finished.

`python bench/resumed_start.py --items N --folder DIR` builds N completions of N/4 prompts about N/8 images with a model
that does nothing, then times each step of the same build again, up to where the first new item would be processed.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pairsight.engine.runner import Runner
from pairsight.formats.prompts import read_prompts
from pairsight.models.protocols import Generator, Sampling, completion_id
from pairsight.models.stages import GenerateCompletions
from pairsight.options import BuildOptions
from pairsight.pipeline import build as building
from pairsight.pipeline.source import Source
from pairsight.recipes.recipe import Gathered, Recipe, RecipeModels, Requests
from pairsight.records import Candidates, Completion, CompletionRequest, Dropped, ItemError, Prompt
from pairsight.selection.clean_over_distorted import CleanOverDistorted
from pairsight.store.run_folder import RunFolder
from pairsight.training.config import TrainingConfig

COMPLETIONS = 4
PROMPTS_AN_IMAGE = 2


@dataclass(frozen=True)
class NoModel(Generator):
    """Completions at no cost."""

    name: str = "m"
    fingerprint: str = "sha256:" + "ab" * 32

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        return [self._one(request) for request in requests]

    def _one(self, one: CompletionRequest) -> Completion:
        text = f"Completion {one.sample_index} of {one.prompt.id}, which is as long as a short caption is."
        return Completion(completion_id(one), one.prompt.id, text, "stop", self.name, one.seed, one.sample_index)


class Four(Recipe):
    """Four completions per prompt."""

    name: ClassVar[str] = "bench"
    default_strategy: ClassVar[str] = "clean_over_distorted"
    default_training: ClassVar[TrainingConfig] = TrainingConfig()

    def candidates(self, prompts: Sequence[Prompt], models: RecipeModels, run: Any) -> Iterator[Candidates | Dropped]:
        def of_prompt(prompt: Prompt) -> Iterator[CompletionRequest]:
            return (CompletionRequest(prompt, index, index) for index in range(COMPLETIONS))

        requests = Requests(prompts, COMPLETIONS, of_prompt)
        stage = GenerateCompletions(NoModel(), Sampling(temperature=0.7, max_new_tokens=512), batch_size=256)
        yield from Gathered(requests, run(stage, requests))


def write_prompts(folder: Path, num_prompts: int) -> None:
    """Write LLaVA-style JSON and tiny images with distinct pixels."""
    (folder / "images").mkdir()
    for number in range(-(-num_prompts // PROMPTS_AN_IMAGE)):
        picture = Image.new("RGB", (2, 1), (number % 256, number // 256 % 256, number // 65536))
        picture.save(folder / "images" / f"{number}.png")
    long_ago = time.time() - 3600  # hashes of recently changed files are not cached
    for path in (folder / "images").iterdir():
        os.utime(path, (long_ago, long_ago))
    rows = [
        {
            "id": f"p{number}",
            "image": f"{number // PROMPTS_AN_IMAGE}.png",
            "conversations": [{"from": "human", "value": f"<image>\nWhat is to be seen in picture {number}?"}],
        }
        for number in range(num_prompts)
    ]
    (folder / "prompts.json").write_text(json.dumps(rows))


def source_of(folder: Path) -> Source:
    return Source(read_prompts(folder / "prompts.json", images=folder / "images"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--folder", help="folder for all files; default: the working directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        write_prompts(folder, options.items // COMPLETIONS)
        models, recipe, strategy = RecipeModels(generators=()), Four(), CleanOverDistorted()
        given = BuildOptions(recipe=recipe.name, model=(), out=str(folder / "run"))
        building.build_run(building.BuildSpec(given, recipe, strategy, source_of(folder)), models, quiet=True)
        steps: dict[str, float] = {}
        began = time.perf_counter()

        def mark(step: str) -> None:
            steps[step] = time.perf_counter() - began - sum(steps.values())

        source = source_of(folder)
        mark("read_prompts_s")
        spec = building.BuildSpec(given, recipe, strategy, source)
        run = RunFolder.create(folder / "run", spec.to_plain(models, {}), free=spec.free(()))
        mark("identity_s")
        building._keep_images(run, source, building.Progress("quiet"))
        mark("images_s")
        with run.ledger() as ledger:
            made = recipe.candidates(source.given, models, Runner(ledger))
            next(made)
            mark("planning_s")
            building.seal_build(run, made, strategy)
        sealing_s = time.perf_counter() - began - sum(steps.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"items": options.items, "start_s": sum(steps.values()), **steps, "select_and_seal_s": sealing_s}
    print(json.dumps({**found, "peak_mb": peak}))


if __name__ == "__main__":
    main()
