"""The demo: the systems on the embedded default, each built, aligned and evaluated by the verbs a user has."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pairsight.benchmarks.results import Results, System
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, did_you_mean
from pairsight.formats.prompts import read_prompts
from pairsight.pipeline.align import AlignSpec, align_run
from pairsight.pipeline.build import build
from pairsight.pipeline.evaluate import data_counts
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.store.run_folder import RunFolder
from pairsight.tiny.models.shipped import ADAPTERS, shipped_model, shipped_pipeline, shipped_scorer
from pairsight.tiny.world.questions import CAPTION_PROMPTS

SYSTEMS = ("seva", "feedback", "synthetic")
USUAL = ("seva", "feedback")
"""What runs when no system is named, in a few minutes together; synthetic is asked for by its name."""
NUM_SCENES = 300
"""Held-out scenes that base and aligned models are compared on."""
NUM_PROMPT_SCENES = 400
"""Scenes, none of them held out, that the prompts are about."""
MATCHED_WORDS = 0
"""The length-matched control keeps pairs whose chosen and rejected have equally many words."""


def run_demo(out: Path, system: str | None = None, quiet: bool = False) -> tuple[Results, Path]:
    """Build, align and evaluate; resumes where an earlier call stopped.

    Args:
        out: the folder of everything: `world/`, a run per system, `evaluate/`, `results.json`, `report.html`.
        system: one of `SYSTEMS`; those of `USUAL` when None.
        quiet: show no progress.

    Returns:
        The results, and the report's path.

    Raises:
        ConfigError: an unknown system.
    """
    from pairsight.reporting.report import write_report
    from pairsight.tiny.world.world_files import write_world

    if system is not None and system not in SYSTEMS:
        raise ConfigError(f"unknown system '{system}'{did_you_mean(system, SYSTEMS)}")
    world = write_world(out / "world", scenes=NUM_SCENES, prompt_scenes=NUM_PROMPT_SCENES)
    adapters: dict[str, Path] = {}
    for name in [system] if system else USUAL:
        adapters |= _train(name, world, out, quiet)
    results = _evaluate(adapters, world, out, quiet)
    return results, write_report(out)


def _train(system: str, world: Path, out: Path, quiet: bool) -> dict[str, Path]:
    """Adapters by name: the system's own, and its controls as `system/control`."""
    from pairsight.recipes.feedback import Feedback
    from pairsight.recipes.seva import SeVa

    if system == "synthetic":
        build_synthetic(world, out / system, quiet=quiet)
        unseeing = {"strategy_options": {"scorer": "sequence"}}
        return {
            system: _align(out / system, world, quiet),
            f"{system}/text_only": _align(out / system, world, quiet, name="text_only", **unseeing),
        }
    if system == "feedback":
        _build(Feedback(max_new_tokens=48), world, out / system, quiet)
        return {system: _align(out / system, world, quiet)}
    _build(SeVa(noise_step=500, max_new_tokens=48), world, out / system, quiet)
    null = out / f"{system}-null"
    _build(SeVa(null_control=True, temperature=1.0, max_new_tokens=48), world, null, quiet)
    return {
        system: _align(out / system, world, quiet),
        f"{system}/null": _align(null, world, quiet),
        f"{system}/length_matched": _align(
            out / system, world, quiet, name="length_matched", max_length_difference=MATCHED_WORDS
        ),
    }


def _build(recipe: Any, world: Path, run: Path, quiet: bool) -> None:
    from pairsight.tiny.truth.annotator import TruthAnnotator

    prompts = read_prompts(world / "prompts.json", images=world / "images")
    annotator = TruthAnnotator(world / "truth.jsonl") if recipe.name == "feedback" else None
    build(recipe, prompts, model=world / "model", run=run, annotator=annotator, quiet=quiet)


def _align(run: Path, world: Path, quiet: bool, **options: Any) -> Path:
    spec = AlignSpec.parse({"data": str(run), "model": str(world / "model"), **options})
    return align_run(spec, quiet=quiet).adapter


def _evaluate(adapters: Mapping[str, Path], world: Path, out: Path, quiet: bool) -> Results:
    """One evaluation of the base and all adapters, greedy and sampled, published as systems with controls."""
    from pairsight.benchmarks.evaluate import evaluate_models
    from pairsight.benchmarks.results_file import update_results
    from pairsight.benchmarks.tasks import BenchmarkTask
    from pairsight.pipeline.models import model_opener
    from pairsight.tiny.world.benchmark import TinyWorld

    model = str(world / "model")
    tasks = [
        BenchmarkTask("tiny", TinyWorld(), world / "truth.jsonl"),
        BenchmarkTask("tiny_sampled", TinyWorld(), world / "truth.jsonl", temperature=1.0),
    ]
    flat = {name.replace("/", "-"): path for name, path in adapters.items()}
    with Progress("quiet" if quiet else "auto") as progress:
        content = evaluate_models(
            model,
            tasks,
            model_opener(model, batch_size=256),
            out=out / "evaluate" / "held-out",
            adapters=flat,
            images=world / "images",
            progress=progress,
        )
    systems = {name: _system(name, adapters, content, out) for name in adapters if "/" not in name}
    primary = next(name for name in ("feedback", *SYSTEMS) if name in systems)
    return update_results(out / "results.json", Results(systems=systems, run=out.name, primary=primary))


def _system(name: str, adapters: Mapping[str, Path], found: Results, out: Path) -> System:
    """A system with its controls; its metrics are the greedy ones, the sampled ones are its second section."""
    return replace(
        found.systems[name],
        aligned=str(adapters[name].relative_to(out)),
        data=data_counts(RunFolder.open(out / name)),
        controls={
            other.partition("/")[2]: found.systems[other.replace("/", "-")]
            for other in adapters
            if other.startswith(f"{name}/")
        },
    )


GUIDANCE_SCALES = (1.0, 3.0, 5.0, 9.0)
NUM_INFERENCE_STEPS = 16


def synthetic_recipe(seed: int = 0) -> Synthetic:
    """The recipe on the shipped weights: ImageReward picks the picture, BLIP's matching head ranks the answers.

    CLIP and BLIP score the pictures too, and the reward model that never sees one scores the answers, so that selectors
    and rankings can be compared.
    """
    return Synthetic(
        image_generator=str(shipped_pipeline()),
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scales=GUIDANCE_SCALES,
        image_scorers=tuple(shipped_scorer(kind) for kind in ("image_reward", "clip", "blip_match")),
        near_duplicate_threshold=1.0,  # texts of one topic share most of their words by construction
        instruction=CAPTION_PROMPTS[0],
        max_new_tokens=48,
        completion_scorers=tuple(shipped_scorer(kind) for kind in ("blip_match", "sequence")),
        seed=seed,
    )


def build_synthetic(world: Path, run: Path, *, seed: int = 0, texts: Path | None = None, quiet: bool = False) -> None:
    """Build the run from a world's texts (or others), with the world's model and the other shipped ones answering.

    Args:
        world: a world's folder, with its model.
        run: the run's folder.
        seed: of the pictures.
        texts: text-to-image prompts; default: the world's `texts.jsonl`.
        quiet: show no progress.
    """
    answering = [world / "model", *(shipped_model(name) for name in ("second", *ADAPTERS))]
    prompts = read_prompts(texts or world / "texts.jsonl")
    build(synthetic_recipe(seed), prompts, model=answering, run=run, quiet=quiet)
