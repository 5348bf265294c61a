"""An option that changes nothing beside the others is refused in one line, where the user gave it; a default is not."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairsight.cli.main import main
from pairsight.errors import ConfigError
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.build import BuildSpec
from pairsight.pipeline.evaluate import EvaluateSpec
from pairsight.recipes.feedback import Feedback
from pairsight.recipes.seva import SeVa
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.tiny.models.shipped import shipped_model


def build(tmp_path: Path, recipe: str, **given: object) -> BuildSpec:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    rows = [{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    file = {"prompts": str(tmp_path / "p.json")} if "completions" not in given else {}
    model = {"model": str(shipped_model()), "out": str(tmp_path / "run")}
    return BuildSpec.parse({"recipe": recipe, **model, **file, **given})


NULL = {"null_control": True, "temperature": 1.0}


@pytest.mark.parametrize("own", [{"noise_step": 500}, {"distortion": "diffusion_weak"}])
def test_the_null_control_takes_no_distortion(tmp_path: Path, own: dict[str, object]):
    name = next(iter(own))
    with pytest.raises(ConfigError, match=f"{name} changes nothing, null_control shows the clean image every time"):
        build(tmp_path, "seva", **NULL, **own)
    assert build(tmp_path, "seva", **NULL).recipe == SeVa(**NULL)
    assert build(tmp_path, "seva", **own).recipe == SeVa(**own)


@pytest.mark.parametrize("own", [{"num_completions": 4}, {"temperature": 0.7}])
def test_given_completions_are_not_sampled(tmp_path: Path, own: dict[str, object]):
    with pytest.raises(ConfigError, match=f"{next(iter(own))} changes nothing, the completions are given"):
        build(tmp_path, "feedback", completions=str(tmp_path / "c.jsonl"), **own)
    assert build(tmp_path, "feedback", **own).recipe == Feedback(**own)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"prompts": True}, {"topics", "scenes_per_topic", "scene_prompt"}),
        ({"instruction": "What is it?"}, {"instruction_input", "instruction_prompt"}),
        (
            {"prompts": True, "instruction": "What is it?"},
            {
                "topics",
                "scenes_per_topic",
                "scene_prompt",
                "instruction_input",
                "instruction_prompt",
                "writer",
                "writer_temperature",
                "writer_max_new_tokens",
            },
        ),
        ({}, set()),
    ],
)
def test_texts_that_are_given_are_not_written(given: dict[str, str], refused: set[str]):
    unused = Synthetic(instruction=given.get("instruction")).unused(prompts="prompts" in given, completions=False)
    assert {name for names in unused.values() for name in names} == refused


@pytest.mark.parametrize("own", [{"limit": 3}, {"images": "."}, {"on_error": "stop"}, {"on_error": "skip"}])
def test_how_a_file_is_read_needs_a_file(tmp_path: Path, own: dict[str, object]):
    name = next(iter(own))
    made = {"recipe": "seva", "model": str(shipped_model()), "out": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=f"{name} changes nothing, no file is read; give --prompts or --completions"):
        BuildSpec.parse({**made, **own})
    assert not (tmp_path / "run").exists()


def test_a_name_inside_the_run_and_a_folder_elsewhere_are_not_both_given():
    given = {"model": "m", "name": "n", "out": "o"}
    with pytest.raises(ConfigError, match="align: --name is a folder's inside the run, and --out names another"):
        AlignSpec.parse({"data": "d", **given})
    with pytest.raises(ConfigError, match="evaluate: --name is a folder's inside the run, --out names another"):
        EvaluateSpec.parse({"run": "r", "benchmarks": {}, **given, "name": "held-out"})
    assert EvaluateSpec.parse({"run": "r", "benchmarks": {}, "model": "m", "out": "o"}).options.name == "held-out"


@pytest.mark.parametrize("own", [["--out", "X"], ["--scenes", "200"], ["--seed", "0"]])
def test_the_server_of_a_world_takes_nothing_that_is_for_writing_one(own: list[str], tmp_path: Path, capsys):
    assert main(["tiny", *own, "serve", "--world", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: {own[0]} is for `tiny`, and `tiny serve` writes no world\n"
    assert main(["tiny", "serve", "--world", str(tmp_path)]) == 1
    assert "holds no world" in capsys.readouterr().err
