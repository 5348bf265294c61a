"""Small run folders as the pipeline leaves them, made without a model: what pages and inspections are tried on."""

import io
import json
import random
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

from made_tables import seal
from pairsight.formats.tables import (
    ANNOTATIONS_SCHEMA,
    CANDIDATES_SCHEMA,
    COMPLETIONS_SCHEMA,
    DROPPED_SCHEMA,
    annotation_batches,
    candidates_batches,
    completion_batches,
    dropped_batches,
)
from pairsight.formats.trl import PAIRS_SCHEMA, pair_batches
from pairsight.images.distort import make_distortion
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    Dropped,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
)
from pairsight.store.run_folder import RunFolder
from pairsight.training.config import TrainingConfig

HOSTILE = (
    "<script>window.owned = 1</script><img src='http://example.invalid/x.png' onerror='window.owned = 2'>"
    "\u202eright to left\u202c \u200f {{ 7 * 7 }} ]]></style></svg><h1>big</h1> & \"quotes\" 'single'"
)
"""Everything a page must show as text."""

_CAPTION = "there is a red circle and a blue square near a green triangle on the left"
_TEXT = _CAPTION.split(" ")


def write_run(folder: Path, recipe: str, *, num_pairs: int = 20, size: int = 48, hostile: bool = False) -> Path:
    """A built run of one recipe; with `hostile`, two pairs and every name that a stranger chooses are hostile."""
    config = {"recipe": recipe, "model": HOSTILE if hostile else "world/model", "prompts": "prompts.json", "seed": 0}
    run = RunFolder.create(folder, config)
    rng = random.Random(recipe)
    candidates, pairs, dropped = [], [], []
    for index in range(num_pairs + 5):
        image = run.blobs.add_bytes(_picture(rng, size), ".png")
        evil = hostile and index in (1, 2)
        prompt = Prompt(
            f"train-{index}" + (HOSTILE if evil else ""),
            (Message("user", "<image>" + (HOSTILE if evil else "What is in the picture?"), (image,)),),
        )
        one = _candidates(rng, recipe, prompt, image, HOSTILE if evil else "")
        candidates.append(one)
        if index < num_pairs:
            pairs.append(
                PreferencePair(prompt.id, prompt, one.completions[0], one.completions[1:], "rule", one.annotations)
            )
        else:
            dropped.append(Dropped(prompt.id, "select", "identical" if index % 2 else "margin"))
    if hostile:
        dropped.append(Dropped("x", HOSTILE, HOSTILE))
    completions = [completion for one in candidates for completion in one.completions]
    annotations = [annotation for one in candidates for annotation in one.annotations]
    seal(run.data, "candidates", candidates_batches(candidates), CANDIDATES_SCHEMA)
    seal(run.data, "completions", completion_batches(completions), COMPLETIONS_SCHEMA)
    if annotations:
        seal(run.data, "annotations", annotation_batches(annotations), ANNOTATIONS_SCHEMA)
    seal(run.data, "pairs", pair_batches(pairs, run.blobs), PAIRS_SCHEMA)
    seal(run.data, "dropped", dropped_batches(dropped), DROPPED_SCHEMA)
    return folder


def write_training(run: Path, name: str = "dpo", steps: int = 20, gain: float = 1.0) -> None:
    """The log of one training."""
    folder = run / "align" / name
    folder.mkdir(parents=True)
    training = TrainingConfig(learning_rate=0.0002).to_plain()
    (folder / "align.yaml").write_text(
        yaml.safe_dump({"model": "world/model", "num_examples": 9, "training": training})
    )
    rows = [
        {
            "step": step,
            "loss": 0.693 - 0.01 * gain * step,
            "rewards/margins": 0.02 * gain * step,
            "rewards/accuracies": min(1.0, 0.5 + 0.02 * gain * step),
            "logps/chosen": -12 - 0.1 * gain * step,
        }
        for step in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(base: float, aligned: float, low: float, high: float, better: str = "higher") -> dict[str, object]:
    """One row of `results.json`."""
    return {
        "base": base, "aligned": aligned, "difference": round(aligned - base, 6), "low": low, "high": high,
        "better": better, "num_items": 900, "unparsed": 0, "temperature": 0,
    }  # fmt: skip


def write_results(folder: Path, systems: tuple[str, ...] = ("feedback", "seva"), hostile: bool = False) -> None:
    """A `results.json` with a gain, a loss, a shift and an unclear measure each, and controls for SeVa."""
    metrics = {
        "accuracy": change(0.811, 0.825, 0.004, 0.024),
        "f1": change(0.832, 0.828, -0.014, 0.006),
        "yes_rate": change(0.624, 0.519, -0.12, -0.09, "neither"),
        "chair_i": change(0.18, 0.097, -0.1, -0.066, "lower"),
        "recall": change(0.869, 0.817, -0.07, -0.03),
        "caption_length": change(14.2, 12.1, -2.5, -1.7, "neither"),
    }
    if hostile:
        metrics[HOSTILE] = change(0.5, 0.6, 0.05, 0.15)
    control = {
        name: {**row, "aligned": row["base"], "difference": 0.0, "low": -0.01, "high": 0.01}
        for name, row in metrics.items()
    }
    pope = {
        "sha256": "ab" * 32,
        "rows": 900,
        "parser": "official",
        "prompt_suffix": "",
        "metrics": {"f1": metrics["f1"]},
    }
    content = {
        name: {
            "metrics": metrics,
            "benchmarks": {HOSTILE if hostile else "pope": pope},
            "controls": {"null": {"metrics": control}, "length_matched": {"metrics": control}}
            if name == "seva"
            else {},
        }
        for name in systems
    }
    whole = {"schema": 1, "run": folder.name, "primary": systems[0], "metrics": metrics, "systems": content}
    (folder / "results.json").write_text(json.dumps(whole))


def write_demo(folder: Path, hostile: bool = False) -> Path:
    """A folder with two systems' runs, trained and compared."""
    folder.mkdir(parents=True)
    for recipe in ("seva", "feedback"):
        write_training(write_run(folder / recipe, recipe, hostile=hostile))
    write_training(folder / "seva", "null", gain=0.1)
    write_results(folder, hostile=hostile)
    return folder


def _candidates(rng: random.Random, recipe: str, prompt: Prompt, image: ImageRef, evil: str) -> Candidates:
    chosen = " ".join(_TEXT[: rng.randrange(6, len(_TEXT))]) + evil
    rejected = " ".join(word if rng.random() > 0.2 else "star" for word in _TEXT) + evil
    noisy = (ImageRef(image.sha256, make_distortion("diffusion", rng.randrange(1000), step=500)),)
    completions = tuple(
        Completion(f"{prompt.id}:{k}", prompt.id, text, "stop", evil or "world/model", 0, k, images)
        for k, (text, images) in enumerate([(chosen, None), (rejected, noisy if recipe == "seva" else None)])
    )
    if recipe == "seva":
        return Candidates(prompt, completions)
    scores = ((4, 4, 3, 1, 1), (rng.randrange(3), 1, rng.randrange(4), 1, 2))
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    annotations = tuple(
        Annotation(
            c.id, evil or "truth", dict(zip(names, values, strict=True)), evil or "It names a star that is not there."
        )
        for c, values in zip(completions, scores, strict=True)
    )
    return Candidates(prompt, completions, annotations)


def _picture(rng: random.Random, size: int) -> bytes:
    image = Image.new("RGB", (size, size), tuple(rng.randrange(120, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, width = rng.randrange(size), rng.randrange(size), max(1, size // 5)
        draw.rectangle((x, y, x + width, y + width), fill=tuple(rng.randrange(256) for _ in range(3)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
