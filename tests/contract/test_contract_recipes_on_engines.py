"""Every recipe, a plug-in's too, and `evaluate` on every engine: the same bytes as in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import tiny_pipelines
from pairsight.build_record import BuildRecord
from pairsight.cli.main import main
from pairsight.store.run_folder import RunFolder
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.truth.server import TruthServer
from pairsight.tiny.world.world_files import write_world
from scorer_folders import save_clip, save_sequence_reward

MINE = '''
"""A recipe and a stage of one's own."""
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pairsight.engine.stage import Resources
from pairsight.recipes.recipe import Recipe
from pairsight.records import Candidates, Completion


@dataclass(frozen=True)
class Shout:
    batch_size: int = 4
    name: str = "shout"
    version: int = 1
    output: type = Completion
    resources: Resources = field(default_factory=Resources)

    def key(self, item):
        return {"id": item.id, "text": item.text}

    def item_id(self, item):
        return item.id

    def setup(self):
        pass

    def process(self, items):
        return [replace(item, id=item.prompt_id + ":1", text=item.text.upper() + "!", sample_index=1) for item in items]

    def close(self):
        pass


class Mine(Recipe):
    name: ClassVar[str] = "mine"
    default_strategy: ClassVar[str] = "clean_over_distorted"
    default_training: ClassVar[dict] = {"loss": "ipo"}

    def candidates(self, prompts, models, run):
        soft = [Completion(p.id + ":0", p.id, p.question, "stop", "me", 0, 0) for p in prompts]
        for prompt, one, loud in zip(prompts, soft, run(Shout(), soft)):
            yield Candidates(prompt, (one, loud), ())
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("engines") / "world", scenes=3, seed=2)


def build(world: Path, recipe: str, out: Path, engine: str, *more: str) -> bytes:
    """The manifest, which has every table's hash."""
    given = ["build", recipe, "--model", str(world / "model"), "--out", str(out), "--quiet", "--engine", engine]
    given += ["--workers", "1" if engine == "local" else "2", *more]
    assert main(given) == 0
    return (out / "data" / "manifest.json").read_bytes()


def prompts(world: Path) -> list[str]:
    return ["--prompts", str(world / "prompts.json"), "--images", str(world / "images")]


def same_on(engine: str, folder: Path, made: Callable[[Path, str], bytes]) -> None:
    assert made(folder / engine, engine) == made(folder / "local", "local")


@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.long)])
def test_a_recipe_from_a_file_and_what_align_takes_from_it(world: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    same_on(
        engine, tmp_path, lambda out, name: build(world, f"{tmp_path / 'mine.py'}:Mine", out, name, *prompts(world))
    )
    assert yaml.safe_load((tmp_path / engine / "run.yaml").read_text())["recipe"] == "mine"
    record = BuildRecord.from_plain(RunFolder.open(tmp_path / engine).config)
    assert record.recipe_name == f"{tmp_path / 'mine.py'}:Mine"
    given = ["align", str(tmp_path / engine), "--model", str(world / "model"), "--set", "max_steps=1", "--quiet"]
    assert main(given) == 1  # a run folder names no code that runs
    given += ["--plugin", str(tmp_path / "mine.py")]
    assert main(given) == 0
    aligned = yaml.safe_load((tmp_path / engine / "align" / "ipo" / "align.yaml").read_text())
    assert aligned["training"]["loss"] == "ipo"


@pytest.mark.long
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_seva(world: Path, tmp_path: Path, engine: str) -> None:
    more = [*prompts(world), "--set", "max_new_tokens=16", "--limit", "6"]
    same_on(engine, tmp_path, lambda out, name: build(world, "seva", out, name, *more))


@pytest.mark.long
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_feedback(world: Path, tmp_path: Path, engine: str) -> None:
    with TruthServer(world) as server:
        more = [*prompts(world), "--set", "max_new_tokens=16", "--annotator", server.model_name]
        same_on(engine, tmp_path, lambda out, name: build(world, "feedback", out, name, *more))


@pytest.mark.long
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_synthetic(world: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_pipelines, "CLIP_LENGTH", 96)
    pipeline = tiny_pipelines.save_stable_diffusion(tmp_path / "pipeline")
    clip, reward = save_clip(tmp_path / "clip", 96), save_sequence_reward(tmp_path / "reward")
    options = {
        "image_generator": pipeline, "num_inference_steps": 2, "guidance_scales": [1, 3], "scenes_per_topic": 3,
        "topics": '["art", "urban"]', "image_scorers": f'["clip:{clip}"]', "max_new_tokens": 16,
        "completion_scorers": f'["sequence:{reward}"]',
    }  # fmt: skip
    more = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    with TruthServer(world) as server:
        more += ["--model", str(shipped_model("second")), "--writer", server.model_name]
        same_on(engine, tmp_path, lambda out, name: build(world, "synthetic", out, name, *more))


@pytest.mark.long
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_evaluate(world: Path, tmp_path: Path, engine: str) -> None:
    def results(out: Path, name: str) -> bytes:
        given = ["evaluate", "--model", str(world / "model"), "--benchmark", f"tiny={world / 'truth.jsonl'}"]
        given += ["--images", str(world / "images"), "--out", str(out), "--engine", name, "--quiet"]
        assert main([*given, "--workers", "1" if name == "local" else "2"]) == 0
        return (out / "results.json").read_bytes()

    same_on(engine, tmp_path, results)
