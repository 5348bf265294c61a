"""The world as plain files, so that every verb can be tried on files: model, images, prompts, POPE, truth."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pairsight.bounded import read_json
from pairsight.errors import ConfigError, RunError
from pairsight.records import IMAGE_MARK
from pairsight.store.durable import cannot_write, copy_file, remove_temporaries, write_file
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.truth.annotator import TruthQuestion, Use, write_truth
from pairsight.tiny.world.judged_files import write_judged
from pairsight.tiny.world.picture_texts import write_texts
from pairsight.tiny.world.questions import (
    NEGATIVES,
    Question,
    benchmark_questions,
    caption,
    colour,
    content,
    count,
    existence,
    place,
)
from pairsight.tiny.world.render import render_image
from pairsight.tiny.world.scenes import Part, Scene, scenes, stream
from pairsight.tiny.world.text_tasks import TASKS, text_question

WORLD_VERSION = 1
TEXT_QUESTIONS_A_SCENE = 1.5  # in the benchmark
TEXT_PROMPTS_A_SCENE = 0.5
TEXTS_PER_TOPIC = 60  # to make pictures from


@dataclass(frozen=True, slots=True)
class World:
    """What a world's folder holds; see `write_world`."""

    part: Part
    scenes: int
    prompt_scenes: int
    seed: int
    model: str | None

    def to_plain(self) -> dict[str, object]:
        """The content of `world.json`."""
        return {"world_version": WORLD_VERSION} | asdict(self)


def write_world(
    out: str | Path,
    scenes: int = 200,
    seed: int = 0,
    *,
    part: Part = "held_out",
    prompt_scenes: int | None = None,
    model: str | Path | None = "base",
) -> Path:
    """Write a world.

    `model/` is a copy of a shipped model; `prompts.json` (LLaVA-style) asks about scenes of the part "align";
    `pope.jsonl` and the benchmark rows of `truth.jsonl` ask about scenes of `part`: other scenes, so that aligning on
    the prompts and evaluating on the rest is honest. No scene of either was trained on. `truth.jsonl` also holds the
    prompts' truth, for the annotator. `judged/` has small benchmarks that a judge scores. `texts.jsonl` are texts to
    make pictures from, for the recipe synthetic.

    Args:
        out: the folder; made if missing. Writing the same world again changes nothing.
        scenes: number of benchmark scenes, 1 or more.
        seed: which scenes, 0 or more.
        part: the benchmark's scenes: "held_out", or "validation" for choices.
        prompt_scenes: number of scenes of the prompts; as many as `scenes` when None, 0 for none.
        model: a shipped model's name, or None for no model folder.

    Returns:
        `out`.

    Raises:
        ConfigError: numbers out of range.
        RunError: `out` holds something else than this world, or cannot be written.
    """
    folder = Path(out)
    num_prompt_scenes = scenes if prompt_scenes is None else prompt_scenes
    if scenes < 1 or num_prompt_scenes < 0:
        raise ConfigError(f"a world needs 1 scene or more, found {scenes} and {num_prompt_scenes} for prompts")
    try:
        _write(folder, World(part, scenes, num_prompt_scenes, seed, model if model is None else str(model)))
    except OSError as error:
        raise cannot_write(Path(error.filename2 or error.filename or folder), error) from None
    return folder


def _write(folder: Path, world: World) -> None:
    """All files of the world."""
    _claim(folder, world.to_plain())
    if world.model is not None:
        _copy_model(shipped_model(world.model), folder / "model")
    (folder / "images").mkdir(exist_ok=True)
    prompts = _rows("align", "prompt", world.prompt_scenes, world.seed, folder / "images")
    benchmark = _rows(world.part, "benchmark", world.scenes, world.seed, folder / "images")
    write_texts(folder / "texts.jsonl", TEXTS_PER_TOPIC, world.seed)
    (folder / "prompts.json").write_bytes(_json([_llava_entry(row) for row in prompts]))
    pope = [_pope_row(row) for row in benchmark if row.kind == "existence"]
    (folder / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pope), encoding="utf-8")
    write_truth(folder / "truth.jsonl", [*prompts, *benchmark])
    write_judged(folder / "judged", benchmark)


def prompt_questions(scene: Scene, seed: int, index: int) -> list[Question]:
    """What a scene is asked in `prompts.json`: a caption, an object that is suggested but absent or one that is there,
    and one question of colour, place, content or number."""
    rng = stream("align", seed, index, 7)
    others = [colour, place, content, count]
    category = NEGATIVES[2] if rng.random() < 0.67 else NEGATIVES[int(rng.integers(2))]
    asked = [
        caption(scene, rng),
        existence(scene, category, bool(rng.random() < 0.5), rng),
        others[int(rng.integers(len(others)))](scene, rng),
    ]
    return [question for question in asked if question is not None]


def _claim(folder: Path, settings: Mapping[str, object]) -> None:
    """Make the folder, or check that it holds this very world or nothing."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, not a folder for a world")
    mark = folder / "world.json"
    if mark.is_file():
        try:
            found = read_json(mark)
        except ValueError as error:
            raise RunError(f"{mark} is damaged ({error}): remove {folder}, or choose another --out") from None
        if found != settings:
            found = found if isinstance(found, dict) else {}
            differing = ", ".join(name for name in settings if found.get(name) != settings[name])
            raise RunError(f"{folder} holds another world ({differing} differ): choose another --out")
        return
    if folder.is_dir():
        remove_temporaries(folder, mark.name)
        if any(folder.iterdir()):
            raise RunError(f"{folder} holds other files and is not a world: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(mark, _json(settings))


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        copy_file(file, target / file.name)


def _rows(part: Part, use: Use, num_scenes: int, seed: int, images: Path) -> list[TruthQuestion]:
    rows: list[TruthQuestion] = []
    for index, scene in enumerate(scenes(part, num_scenes, seed)):
        name = f"{scene.id}.png"
        data = _png(scene)
        (images / name).write_bytes(data)
        if use == "prompt":
            questions = prompt_questions(scene, seed, index)
        else:
            questions = benchmark_questions(scene, stream(part, seed, index, 5))
        rows += [_visual_row(scene, question, use, name, data) for question in questions]
    share = TEXT_PROMPTS_A_SCENE if use == "prompt" else TEXT_QUESTIONS_A_SCENE
    return rows + _text_rows(part, use, round(share * num_scenes), seed)


def _visual_row(scene: Scene, question: Question, use: Use, name: str, data: bytes) -> TruthQuestion:
    label = question.kind if question.kind == question.category else f"{question.kind}-{question.category}"
    return TruthQuestion(
        id=f"{scene.id}-{label}",
        use=use,
        image=name,
        image_sha256=hashlib.sha256(data).hexdigest(),
        kind=question.kind,
        category=question.category,
        question=question.text,
        answer=question.answer,
        objects=tuple(
            {"colour": t.colour, "shape": t.shape, "size": "large" if t.large else "small", "place": t.place}
            for t in scene.things
        ),
    )


def _text_rows(part: Part, use: Use, n: int, seed: int) -> list[TruthQuestion]:
    tasks = list(TASKS)
    rows = []
    for i in range(n):
        question = text_question(tasks[i % len(tasks)], stream(part, seed, i, 6))
        identity = f"{part}-{seed}-text-{i:05d}"
        rows.append(TruthQuestion(identity, use, None, None, "text", question.category, question.text, question.answer))
    return rows


def _llava_entry(row: TruthQuestion) -> dict[str, object]:
    asked = f"{IMAGE_MARK}\n{row.question}" if row.image else row.question
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": row.answer}]
    return {"id": row.id, **({"image": row.image} if row.image else {}), "conversations": turns}


def _pope_row(row: TruthQuestion) -> dict[str, object]:
    label = row.answer.lower()
    return {
        "question_id": row.id, "image": row.image, "text": row.question, "label": label, "category": row.category,
    }  # fmt: skip


def _png(scene: Scene) -> bytes:
    data = io.BytesIO()
    render_image(scene).save(data, format="PNG")
    return data.getvalue()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
