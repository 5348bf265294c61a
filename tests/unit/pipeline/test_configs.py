"""The shipped configs: complete, commented, with the papers' values, and a dry run that needs nothing but them."""

import json
import re
import socket
from pathlib import Path

import pytest
import yaml

from pairsight.cli.main import main
from pairsight.errors import ConfigError
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.build import BuildChoice
from pairsight.pipeline.dry_run import dry_run
from pairsight.pipeline.run import CONFIGS, SHAPES, RunConfig, find_config
from pairsight.recipes.workload import Assumed, Roles, annotation_tokens

NAMES = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
PAPERS = ("seva-7b", "seva-13b", "feedback-13b", "feedback-13b-steerlm", "feedback-7b", "pds-dpo-7b")
MODERN = ("qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-8b", "gemma-3-4b", "smolvlm2-2.2b")

SEVA = {  # 2404.10501 §4.1, Table 6 (α = 2r), Alg. 1; warm-up, dropout, length, repetition: the authors' code
    "beta": 0.1, "learning_rate": 2e-6, "lora_r": 1024, "lora_alpha": 2048, "lora_dropout": 0.0, "num_train_epochs": 1,
    "weight_decay": 0.0, "warmup_ratio": 0.0, "max_length": 2048, "repeat": 2, "global_batch": 128, "loss": "dpo",
}  # fmt: skip
DPO = {  # 2402.10884 Table 3; epochs, dropout, projector and warm-up: the authors' code
    "beta": 0.1, "average_log_prob": False, "learning_rate": 5e-5, "projector_learning_rate": 2e-5, "lora_r": 128,
    "lora_alpha": 256, "lora_dropout": 0.05, "num_train_epochs": 3, "weight_decay": 0.0, "warmup_ratio": 0.03,
    "max_length": 3000, "bf16": True, "lr_scheduler_type": "cosine", "global_batch": 128, "loss": "dpo",
}  # fmt: skip
TABLES = {
    "seva-7b": {**SEVA, "noise_step": 800},
    "seva-13b": {**SEVA, "noise_step": 500},
    "feedback-13b": {**DPO, "num_completions": 4, "temperature": 0.7, "min_margin": 2},
    "feedback-7b": {**DPO, "num_completions": 4, "temperature": 0.7, "min_margin": 2},
    "feedback-13b-steerlm": {
        **{name: value for name, value in DPO.items() if name not in ("beta", "average_log_prob")},
        "loss": "sft", "learning_rate": 4e-4, "max_length": 2048,
    },
    "pds-dpo-7b": {  # 2412.17417 §4, 4.3; LoRA, β, warm-up and length: the authors' code
        "learning_rate": 1e-5, "num_train_epochs": 2, "per_device_train_batch_size": 1, "global_batch": 8, "beta": 0.1,
        "lora_r": 128, "lora_alpha": 256, "warmup_ratio": 0.03, "max_length": 5012, "projector_learning_rate": None,
        "num_inference_steps": 28, "guidance_scales": (5.0, 7.0, 9.0, 11.0), "loss": "dpo",
    },
}  # fmt: skip

PARAMETERS = {  # of the published safetensors
    "llava-1.5-7b": 7_063_427_072, "qwen2.5-vl-7b": 8_292_166_656, "qwen3-vl-8b": 8_767_123_696,
    "internvl3-8b": 7_944_373_760, "gemma-3-4b": 4_300_079_472, "smolvlm2-2.2b": 2_246_784_880,
}  # fmt: skip


def read(name):
    return RunConfig.read(find_config(name))


def test_every_paper_and_every_family_has_a_config():
    assert set(NAMES) == {*PAPERS, *MODERN}
    assert {read(name).shape for name in NAMES} == {file.stem for file in SHAPES.glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_papers_values(name):
    config = read(name)
    made = BuildChoice.parse(config.options_of("build"))  # every key is known, and used
    strategy, recipe = made.strategy, made.recipe
    training = AlignSpec.parse(config.options_of("align"), made.options.recipe, strategy).training
    found = {**strategy.to_plain(), **dict(recipe), **dict(training), "global_batch": training.global_batch}
    for option, value in TABLES.get(name, {"global_batch": 64}).items():
        assert found[option] == pytest.approx(value) if isinstance(value, float) else found[option] == value, option
    if name in PAPERS:
        assert "1.5-7b" in config.model if name.endswith("7b") else "1.5-13b" in config.model


def test_whose_answers_the_feedback_configs_train_on():
    assert (
        read("feedback-7b").options_of("build")["model"] == read("feedback-13b").model
    )  # §5.4: the larger model's pairs
    assert read("seva-7b").options_of("build")["model"] == read("seva-7b").model
    assert len(read("pds-dpo-7b").options_of("build")["model"]) == 4
    assert len(read("pds-dpo-7b").options_of("build")["topics"]) == 10
    for name in ("seva-7b", "seva-13b"):  # the authors ask POPE's questions as they are
        assert read(name).evaluate["benchmark_options"] == {"pope": {"prompt_suffix": "", "max_new_tokens": 512}}


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_of_a_paper_says_where_it_is_from(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    start, end = lines.index("build:"), next(n for n, line in enumerate(lines) if line.startswith("evaluate:"))
    inside = lines[start + 1 : end]
    silent = []
    for line, after in zip(inside, [*inside[1:], ""], strict=True):
        is_value = re.match(r"  [a-z_0-9]+: *[^ #]", line)
        if is_value and not line.startswith("  recipe:") and not re.search(r"#.*\[(P|R|ours)\]", f"{line} {after}"):
            silent.append(line)
    assert silent == []


def test_a_name_is_a_shipped_config_and_a_path_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("seva-7b") == CONFIGS / "seva-7b.yaml"
    assert [find_config(given) for given in ("seva-7b.yaml", "./seva-7b", "a/b")] == [
        Path("seva-7b.yaml"), Path("./seva-7b"), Path("a/b"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="there is no shipped config 'seva-8b'; did you mean 'seva-7b'"):
        find_config("seva-8b")
    (tmp_path / "mine").write_text("out: o")
    with pytest.raises(ConfigError, match=r"named with its folder or suffix: \./mine"):
        find_config("mine")


def test_configs_and_shapes_are_part_of_the_package():
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '"configs/*.yaml"' in project
    assert '"**/*.json"' in project
    assert (Path(__file__).parents[3] / "configs" / "seva-7b.yaml").samefile(CONFIGS / "seva-7b.yaml")


def test_what_stages_take_is_counted_by_hand():
    config = read("feedback-13b")
    made = BuildChoice.parse(config.options_of("build"))
    options = made.options
    roles = Roles(("m",), "annotator", "", options.annotation)
    generate, annotate = made.recipe.work(roles, config.estimate, 5084)
    assert (generate.count, generate.completion_tokens) == (4 * 5084, 150)
    assert (annotate.count, annotate.by, annotate.completion_tokens) == (5084, "annotator", 800)
    guide = annotation_tokens(config.estimate, 4, options.annotation) - 40 - 4 * 150
    assert 300 < guide < 700
    synthetic = BuildChoice.parse(read("pds-dpo-7b").options_of("build")).recipe
    counts = {(one.stage, one.unit): one.count for one in synthetic.work(Roles(("a", "b", "c", "d")), Assumed(), 0)}
    assert counts == {
        ("generate", "lists of scenes"): 10 * 50, ("generate_images", "images"): 40_000,
        ("score_images/image_reward", "scores"): 40_000, ("generate", "questions"): 10_000,
        ("generate", "completions"): 10_000, ("score_completions/armorm", "scores"): 40_000,
    }  # fmt: skip


def test_cost_and_tokens_without_data_or_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.read(find_config("feedback-13b"), ["align=null", "evaluate=null"])
    found = dry_run(config)
    annotate = found.stages[1]
    picture = 640 * 480 // 750 + 85
    read_tokens = 5084 * (annotate.work.prompt_tokens + picture)
    assert found.num_prompts == 5084
    assert annotate.prompt_tokens == read_tokens
    assert annotate.cost == pytest.approx((read_tokens * 0.3 + 5084 * 800 * 2.5) / 1e6)
    assert found.missing == ("data/lrv_scigraphqa.jsonl", "data")
    unknown = RunConfig.read(find_config("feedback-13b"), ["align=null", "evaluate=null", "build.calls.prices={}"])
    assert dry_run(unknown).stages[1].cost is None


def test_without_data_and_without_a_count_the_file_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.read(find_config("seva-7b"), ["estimate.num_prompts=null"])
    with pytest.raises(ValueError, match=r"llava_v1_5_mix665k\.json"):
        dry_run(config)


def refuse(*_):
    raise AssertionError("a dry run asks no network")


def small_shape(folder):
    """LLaVA-1.5's shape with two layers and narrow ones, so that a forecast takes a second."""
    shape = json.loads((SHAPES / "llava-1.5-7b.json").read_text())
    narrow = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape["config.json"]["text_config"] |= {**narrow, "num_key_value_heads": 4}
    shape["config.json"]["vision_config"] |= narrow
    (folder / "small.json").write_text(json.dumps(shape))
    return folder / "small.json"


def dry_run_of(name, monkeypatch, capsys, *settings):
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", name, "--dry-run", *words]) == 0
    said = capsys.readouterr().out
    for part in ("all figures below are estimates", "assumed: ", "memory in the training", "it fits into", "cost"):
        assert part in said
    memory = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["estimate"]["gpu_memory"]
    assert f"a GPU of {memory} GiB" in said
    return said


def test_a_dry_run_multiplies_what_it_counts(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    settings = (
        "align.lora_r=4",
        "align.lora_alpha=8",
        "align.per_device_train_batch_size=2",
        "align.num_train_epochs=3",
    )
    said = dry_run_of("seva-7b", monkeypatch, capsys, f"shape={small_shape(tmp_path)}", *settings)
    # 8,000 pairs, each twice, in batches of 2 x 8, three times
    assert "8000 examples, from 4 of them, each 2 times an epoch, 3 epochs, 3000 steps" in said
    assert "32000 completions" in said
    # the image's 576, a question of 60 words, and of vicuna_v1 23 words, two roles and the beginning of all; two
    # completions of 100 words, each with its end
    assert "prompt 662, of these image 576; completions 202; together, shared ones once, 864" in said
    features = re.search(r"memory in the training: .* images ([\d.]+) GiB", said)
    assert float(features[1]) == pytest.approx(8000 * 576 * 64 * 2 / 2**30, rel=0.01)  # in bfloat16, of all images
    weights = {"trained": 4 * 4 * 2 * (4 * 128 + 3 * 160)}  # float32, rank 4, two layers, seven linear layers
    trained = weights["trained"] + 4 * (64 * 64 + 64 + 64 * 64 + 64)  # and the projector
    assert f"trained weights {trained / 2**30:.3g} GiB" in said
    assert f"optimizer {2 * trained / 2**30:.3g} GiB" in said
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_needs_nothing_but_the_package(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry_run_of(name, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize(("shape", "parameters"), PARAMETERS.items())
def test_a_shape_has_as_many_parameters_as_the_published_weights(shape, parameters):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(**json.loads((SHAPES / f"{shape}.json").read_text())["config.json"])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_bad_shapes_and_assumptions_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    (tmp_path / "shape.json").write_text('{"config.json": {}}')
    assert main(["run", "seva-7b", "--dry-run", "--set", "shape=shape.json"]) == 0
    assert "memory: no forecast, shape shape.json holds no model's shape" in capsys.readouterr().out
    assert main(["run", "seva-7b", "--dry-run", "--set", "shape=llava"]) == 0
    assert "no forecast, there is no shipped config 'llava'" in capsys.readouterr().out
    for setting, said in (
        ("estimate.kept=2", "estimate.kept"),
        ("estimate.kepd=0.5", "unknown option 'estimate.kepd'"),
    ):
        assert main(["run", "seva-7b", "--dry-run", "--set", setting]) == 1
        assert said in capsys.readouterr().err
    assert main(["run", "seva-7b", "--dry-run", "--set", "align.devices=8"]) == 1
    assert "devices is 8, and this is the only process" in capsys.readouterr().err
    assert main(["run", "seva-7b", "--rate", "3"]) == 1
    assert "--rate says what a dry run is for" in capsys.readouterr().err
