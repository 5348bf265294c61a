"""The script for a GPU, at tiny sizes on the CPU; and the costs that the documents state."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import card  # noqa: E402
import costs  # noqa: E402
import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_speed  # noqa: E402
import gpu_table  # noqa: E402
from flops import training, unshared  # noqa: E402
from llava_shape import LLAVA_7B, SMALLEST, Item  # noqa: E402


def words(count: int) -> str:
    return " ".join(["w"] * count)


@pytest.mark.parametrize(
    ("epochs", "questions", "rejected", "ratio"), [(1, 1, 1, 1.84), (3, 1, 1, 2.36), (2, 2, 2, 5.7)]
)
def test_the_arithmetic_alone_gives_the_stated_ratios(epochs, questions, rejected, ratio):
    """As worked out for the goals: 576 image tokens, 40 of text, completions of 100."""
    items = [Item("0", words(37), words(99), (words(99),) * rejected)] * questions
    assert unshared(LLAVA_7B, items, epochs, 128) / training(LLAVA_7B, items, epochs, 128) == pytest.approx(
        ratio, rel=0.03
    )


def test_the_stated_costs_are_the_computed_ones():
    assert costs.table() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_a_gpus_figures_are_of_a_gpu_or_there_are_none():
    file, table = BENCH / "gpu.json", BENCH / "GPU.md"
    assert file.is_file() == table.is_file()
    if not file.is_file():
        assert "figure comes from a GPU" in (ROOT / "README.md").read_text(encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    assert not found["tiny"]
    assert found["machine"]["card"]
    assert table.read_text(encoding="utf-8") == gpu_table.report(found)


def test_a_wrong_attention_is_reported_and_the_right_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card, "DEVICE", "cpu")
    world = gpu_checks.LAYOUTS["trees"](tmp_path, SMALLEST)
    ways = {"right": gpu_checks.ways()["span by span"], "wrong": gpu_checks.Way(partial(gpu_checks.going, causal))}
    checks = list(gpu_checks.layout_checks("trees", world, torch.float32, ways))
    assert [check.ok for check in checks if ", right, " in check.name] == [True] * 4
    wrong = [check for check in checks if ", wrong, " in check.name]
    assert [check.ok for check in wrong] == [False] * 4
    assert all(check.found > 100 * check.allowed for check in wrong)


def causal(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    """Each token sees all before it in its row, as if the row were one sequence."""
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def test_a_way_that_is_not_taken_is_an_error():
    with pytest.raises(RuntimeError, match="no layer"), gpu_checks.going(causal):
        pass


def test_what_makes_the_cpu_wait_is_counted_by_line_and_reads_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card, "DEVICE", "cpu")
    with card.synchronisations() as found:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    ((place, count),) = found.items()
    assert count == 2
    assert "warnings.warn(" in gpu_checks.line(place)
    assert not gpu_checks.waits_check("step", found).ok
    code = tmp_path / "code.py"
    code.write_text("y = x.to(device)\nz = y.item()\n")
    assert gpu_checks.waits_check("step", {f"{code}:1": 3}).ok
    assert not gpu_checks.waits_check("step", {f"{code}:1": 3, f"{code}:2": 1}).ok


def test_an_error_inside_a_check_is_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(world: Path, shape: Any) -> Path:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_checks, "LAYOUTS", {"trees": broken})
    monkeypatch.setattr(gpu_checks, "trainings", lambda world, shape: iter(()))
    checks = list(gpu_checks.all_checks(SMALLEST))
    assert [check.name for check in checks if not check.ok] == ["trees, bf16", "trees, fp32"]
    assert "no such kernel" in checks[-1].detail
    assert [check.ok for check in checks if check.name.startswith("frozen head")] == [True, True]


def test_a_head_that_rounds_where_the_model_is_sure_is_reported(monkeypatch: pytest.MonkeyPatch):
    def rounding(head: torch.nn.Linear, hidden_PD: Tensor, target_P: Tensor) -> Tensor:
        return head(hidden_PD).log_softmax(1).gather(1, target_P[:, None])[:, 0]  # all of it in bfloat16

    monkeypatch.setattr(card, "DEVICE", "cpu")
    assert gpu_checks.frozen_head(torch.bfloat16, SMALLEST).ok
    monkeypatch.setattr(gpu_checks, "head_logps", rounding)
    assert not gpu_checks.frozen_head(torch.bfloat16, SMALLEST).ok


def test_bytes_that_a_training_leaves_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card, "DEVICE", "cpu")
    before = card.held_bytes()
    left = torch.empty(2**21, dtype=torch.uint8)
    assert card.held_bytes() - before >= left.nbytes


def test_without_a_gpu_only_tiny_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(card, "DEVICE", "cpu")
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "--tiny" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()


def measured(pairs: int, seconds: float, peak: float) -> dict[str, Any]:
    steps = [seconds / 4, seconds / 5]
    return {"pairs": pairs, "seconds": seconds, "step_seconds": steps, "peak_bytes": peak, "static_bytes": 20e9}


def test_the_table_compares_both_sides_by_hand():
    speed = {
        "one_epoch": {
            "trl": {"measured": measured(80, 16.0, 50e9), "way": {"per_pass": 2}},
            "ours": {"measured": measured(80, 5.0, 70e9), "memory": measured(16, 1.0, 35e9)},
        },
        "rank_1024": {"ours": {"measured": measured(16, 2.0, 81e9)}},
    }
    found = {"tiny": False, "matrix_before": {"best_flops_per_s": 800e12}, "speed": speed, "checks": []}
    rows = {row.title: row for row in gpu_table.rows(found)}
    assert rows["r 128, one epoch, over TRL"].values == (16.0 / 5.0,)
    assert rows["r 128, one epoch, over TRL"].goal() == "≥ 2×, reached"
    assert rows["r 128, one epoch: peak above weights, adapters and optimizer, over TRL"].values == (0.5,)
    assert rows["r 1024, one epoch: peak memory, ours"].goal() == "≤ 80 GB, missed"
    (share,) = rows["r 128, one epoch: needed arithmetic over a matrix product's"].values
    assert 0.5 < share < 0.8  # about 30 TFLOP a pair in 1/16 s, of 800 a second
    text = gpu_table.report(found | {"missing": [{"what": "projector, trl", "why": "cut"}]})
    assert "| r 128, one epoch, over TRL | 16.00 (steps" in text
    assert "- projector, trl: cut" in text


class InThisProcess:
    """A turn's script in this process, which has its libraries already."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        script, *self.arguments = command
        self.main = {"card.py": card.main, "gpu_checks.py": gpu_checks.main, "gpu_speed.py": gpu_speed.main}[script]

    def finish(self, line: str, seconds: float) -> str:
        self.main(self.arguments, line)
        return ""


@pytest.mark.long
def test_tiny_runs_every_section_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "Child", InThisProcess)
    monkeypatch.setattr(gpu_checks, "LAYOUTS", {"image blocks": gpu_checks.LAYOUTS["image blocks"]})
    monkeypatch.setattr(gpu_checks, "DTYPES", (torch.bfloat16,))
    gpu.main(["--tiny", "--out", str(tmp_path), "--cases", "one_epoch"])
    complete(tmp_path)


@pytest.mark.long
def test_the_command_runs_all_cases_in_processes_of_their_own(tmp_path: Path):
    command = [sys.executable, str(BENCH / "gpu.py"), "--tiny", f"--out={tmp_path}", "--minutes=30"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    complete(tmp_path)


class CutOff(InThisProcess):
    """A process that has no time, or had too little."""

    def finish(self, line: str, seconds: float) -> str:
        return "cut after 5 s"

    def stop(self) -> None:
        pass


def test_what_was_cut_or_no_longer_fitted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "Child", CutOff)
    monkeypatch.setattr(gpu, "TINY", replace(gpu.TINY, case_s=(1e6, 1e6)))
    gpu.main(["--tiny", "--out", str(tmp_path), "--cases", "one_epoch"])
    missing = {one["what"]: one["why"] for one in json.loads((tmp_path / "gpu.json").read_text())["missing"]}
    assert list(missing) == ["machine", "checks", "one_epoch, trl", "one_epoch, ours", "machine again"]
    assert missing["checks"] == "cut after 5 s" and missing["one_epoch, ours"].endswith("of 480 s left")


def test_without_trl_ours_is_measured_alone_and_the_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card, "installed", lambda package: "")
    run = gpu.Run(gpu.TINY, tmp_path, 480.0, found={"tiny": True})
    turns = list(gpu.turns(run, tmp_path, gpu_table.CASES[:1]))
    assert [turn.title for turn in turns] == ["machine", "checks", "one_epoch, ours", "machine again"]
    given = gpu_speed.Job.read(turns[2].line())
    assert (given.pairs, given.search, given.ways[0]) == (0, True, gpu_speed.Way(1))
    found = run.found | {"speed": {"one_epoch": {"ours": {"measured": measured(16, 2.0, 30e9)}}}}
    assert "r 128, one epoch, ours alone" in gpu_table.report(found) and "TRL: it is not installed" in gpu_table.report(
        found
    )


def complete(folder: Path) -> None:
    """All sections are there, every check holds, both sides trained as many pairs."""
    found = json.loads((folder / "gpu.json").read_text())
    assert found["tiny"] and not (folder / "GPU.md").exists()  # a table only of a card
    assert found.get("missing", []) == []
    assert found["checks"] and [check for check in found["checks"] if not check["ok"]] == []
    assert found["matrix_before"]["best_flops_per_s"] > 0 and found["matrix_after"]["best_flops_per_s"] > 0
    for key, sides in found["speed"].items():
        assert sides["trl"]["measured"]["pairs"] == sides["ours"]["measured"]["pairs"] > 0
        held = [sides[side]["measured"]["static_bytes"] for side in ("trl", "ours")]
        assert held[0] == held[1] or key == "projector"  # which TRL keeps in bf16
        assert all(way["fits"] for way in sides["trl"]["tried"])
    assert found["speed"]["one_epoch"]["ours"]["memory"]["peak_bytes"] > 0
    titles = [row.title for row in gpu_table.rows(found)]
    assert any("over TRL" in title for title in titles) and any("matrix product" in title for title in titles)
