"""The benchmark's table, and the parameters that its sides train."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import run  # noqa: E402
from table import Row, merged, read_rows, write_rows  # noqa: E402


def made(part: str, commit: str, *values: float, **more: object) -> Row:
    return Row(part, f"speed of {part}", "2 against 1", values, commit=commit, machine="M", versions={"p": "1"}, **more)


def test_rows_measured_at_different_times_are_in_one_table(tmp_path: Path) -> None:
    parts = ("a", "b", "gone")
    file = tmp_path / "results.json"
    first = {"y_b": made("b", "111", 2.0), "x_a": made("a", "111", 1.0, 3.0, 2.0), "z": made("gone", "111", 9.0)}
    write_rows(file, merged({}, first, parts))
    assert json.loads(file.read_text())["rows"]["x_a"]["median"] == 2.0

    later = merged(read_rows(file, parts[:2]), {"y_b": made("b", "222", 5.0)}, parts[:2])
    assert list(later) == ["x_a", "y_b"]  # the part that no longer exists is gone
    assert [(row.commit, row.median) for row in later.values()] == [("111", 2.0), ("222", 5.0)]


def test_a_row_shows_whether_its_goal_is_reached() -> None:
    assert made("a", "c", 2.79, at_least=2.8).goal() == "≥ 2.8×, missed"
    assert made("a", "c", 2.8, at_least=2.8).goal() == "≥ 2.8×, reached"
    assert made("a", "c", 0.51, at_most=0.5).goal() == "≤ 0.5×, missed"
    assert made("a", "c", 0.51).goal() == "–"
    line = made("a", "abc", 1.0, 3.0, 2.0, at_least=2.8, matrix_gflops=(201.2, 198.7), others=0.014)
    expected = "| speed of a | 2 against 1: **2.00×** (1.00–3.00) | ≥ 2.8×, missed | 3 | 201 / 199 | 1% | abc |"
    assert line.markdown() == expected


def test_the_written_table_matches_its_figures() -> None:
    rows = read_rows(run.JSON, run.PARTS)
    assert run.TABLE.read_text() == run.report(rows)
    text = run.TABLE.read_text()
    assert "no figure comes from a GPU" in text
    assert rows
    for row in rows.values():
        assert row.commit and row.machine and row.versions


def test_goals_are_the_stated_ones() -> None:
    goals = {case.key: dict(case.goals) for case in run.CASES}
    assert goals["one_epoch"] == {"trl": 2.8, "swift": 2.1}
    assert goals["two_epochs"] == {"trl": 3.3, "swift": 2.5}
    assert goals["shared_images"] == {"trl": 9.0, "swift": 6.5}
    assert goals["large_vocabulary"] == {"trl": 6.0, "swift": None}


def test_speeds_compare_run_by_run_and_name_both_of_our_sides() -> None:
    case = next(case for case in run.CASES if case.key == "shared_images")
    runs = {
        "grouped": [{"pairs": 32, "seconds": 8}, {"pairs": 32, "seconds": 4}],
        "ours": [{"pairs": 32, "seconds": 16}, {"pairs": 32, "seconds": 16}],
        "trl": [{"pairs": 32, "seconds": 64}, {"pairs": 32, "seconds": 64}],
    }
    rows = run.speeds(case, runs)
    assert rows["train_ratio_shared_images_grouped"].values == (8.0, 16.0)
    assert rows["train_ratio_shared_images"].values == (4.0, 4.0)
    assert "with `group_by_image`" in rows["train_ratio_shared_images_grouped"].title
    assert "without `group_by_image`" in rows["train_ratio_shared_images"].title
    assert "2.000 against 0.500" in rows["train_ratio_shared_images"].markdown()


def test_the_matrix_rate_is_the_best_before_or_after(tmp_path: Path) -> None:
    setup = run.Setup(2, 1, True, None, tmp_path)
    ours = [{"pairs": 8, "seconds": 10.0, "tree_seconds": 0.1}]
    slow = {"best_flops_per_s": 139e9, "median_flops_per_s": 120e9}
    fast = {"best_flops_per_s": 188e9, "median_flops_per_s": 176e9}
    share = run.arithmetic(run.CASES[0], ours, slow, fast, setup)["matrix_rate_share"]
    only_fast = run.arithmetic(run.CASES[0], ours, fast, fast, setup)["matrix_rate_share"]
    assert share.values == only_fast.values
    assert "139 (median 120) and 188 (median 176)" in share.detail


def test_unknown_rows_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--rows", "one_epoch,fp8"])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert stopped.value.code == 2
    assert "no row 'fp8'; there are one_epoch, two_epochs" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "feedback", "bf16"])
def test_both_sides_train_the_same(name: str, tmp_path: Path) -> None:
    """In separate processes, as each side changes libraries: names and sizes of trained parameters, by hand."""
    seen = {}
    for side in ("ours", "trl"):
        code = DESCRIBE.format(bench=str(BENCH), side=side, settings=name, world=str(tmp_path / side))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seen[side] = json.loads(done.stdout.splitlines()[-1])
    assert seen["ours"] == seen["trl"]
    rank, dropout = (128, [0.05]) if name == "feedback" else (16, [])
    layers, hidden, mlp, vision = 4, 128, 384, 128  # of the tiny shape
    expected = {
        f"{part}.{which}": layers * rank * width
        for part, ends in {
            "q_proj": (hidden, hidden),
            "k_proj": (hidden, hidden),
            "v_proj": (hidden, hidden),
            "o_proj": (hidden, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }.items()
        for which, width in zip(("lora_A", "lora_B"), ends, strict=True)
    }
    if name == "feedback":
        expected["projector"] = vision * hidden + hidden + hidden * hidden + hidden
    assert seen["ours"]["trained"] == expected
    assert seen["ours"]["dropout"] == dropout
    assert seen["ours"]["frozen"] == ["torch.bfloat16" if name == "bf16" else "torch.float32"]


DESCRIBE = """
import json, sys
sys.path.insert(0, {bench!r})
from collections import Counter
from pathlib import Path
import train_worker
from llava_shape import TINY, build_items, build_model

class Caught(Exception): pass

world, settings = Path({world!r}), train_worker.SETTINGS[{settings!r}]()
build_model(world / "model", TINY)
items = build_items(world / "images", TINY, 4, words=(3, 5))
train = getattr(train_worker, {side!r})(train_worker.Job(world, items, 1, 2, settings), train_worker.Start())
if {side!r} == "trl":
    model = train.__self__.model
else:
    from pairsight.training import loop
    made = []
    def keep(self, *a, **k):
        made.append(self.model)
        raise Caught
    loop.Loop.train = keep
    try:
        train()
    except Caught:
        pass
    model = made[0]
trained, frozen, dropout = Counter(), set(), set()
for name, parameter in model.named_parameters():
    pieces = name.split(".")
    if not parameter.requires_grad:
        frozen.add(str(parameter.dtype))
    elif "lora_A" in pieces or "lora_B" in pieces:
        which = "lora_A" if "lora_A" in pieces else "lora_B"
        trained[pieces[pieces.index(which) - 1] + "." + which] += parameter.numel()
    else:
        assert "multi_modal_projector" in pieces, name
        trained["projector"] += parameter.numel()
for name, module in model.named_modules():
    p = getattr(module, "p", 0.0)
    if "lora_dropout" in name and isinstance(p, float) and p:
        dropout.add(p)
print(json.dumps({{"trained": trained, "frozen": sorted(frozen), "dropout": sorted(dropout)}}, sort_keys=True))
"""
