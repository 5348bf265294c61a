import official
import pytest

from pairsight.benchmarks.published import known_model, published_cells
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_benchmark


def cell(**wanted):
    (found,) = [c for c in published_cells() if all(getattr(c, name) == value for name, value in wanted.items())]
    return found


def test_all_tables_are_complete():
    counts = {}
    for found in published_cells():
        counts[found.paper, found.table] = counts.get((found.paper, found.table), 0) + 1
    assert counts == {
        ("li2024", "2"): 3, ("li2024", "3"): 22, ("li2024", "4"): 38, ("li2024", "5"): 4, ("li2024", "6"): 5,
        ("li2024", "7"): 6, ("li2024", "9"): 8, ("pds_dpo", "1"): 48, ("pds_dpo", "2"): 45, ("pds_dpo", "3"): 30,
        ("pds_dpo", "4"): 12, ("pds_dpo", "5"): 6, ("seva", "1"): 91, ("seva", "2"): 77, ("seva", "3"): 33,
        ("seva", "4"): 20, ("seva", "5"): 24, ("seva", "6"): 21,
    }  # fmt: skip


def test_cells_by_hand():
    assert cell(paper="li2024", table="4", row="DPO", benchmark="MT-Bench").value == "6.73"
    assert cell(paper="pds_dpo", table="2", row="+ PDS-DPO (Vicuna 7B; RM)", benchmark="AMBER F1").value == "75.6"
    assert cell(paper="seva", table="2", row="SeVa-13B (Vicuna-13B)", benchmark="GQA").value == "63.4"
    assert cell(paper="seva", table="6", row="LLaVA-1.5-7B", benchmark="MM-Vet").note == "30.5 in the other tables"
    base = cell(paper="seva", table="2", row="LLaVA-1.5 (Vicuna-7B)", benchmark="POPE")
    assert (base.model, base.metric, base.fraction) == ("llava-1.5-7b", "pope.f1", pytest.approx(0.859))
    assert cell(paper="li2024", table="4", row="LLaVA-1.5-13b", benchmark="POPE").fraction == 0.859


def test_every_named_metric_is_one_of_ours():
    cells = [cell for cell in published_cells() if cell.metric]
    assert len(cells) > 30
    for cell in cells:
        benchmark, _, metric = cell.metric.partition(".")
        assert metric in make_benchmark(benchmark).directions()
        assert cell.model


@pytest.mark.parametrize(
    ("model_name", "model"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b"), ("/models/LLaVA-v1.5-13B", "llava-1.5-13b"),
        ("liuhaotian/llava-v1.5-7b", "llava-1.5-7b"), ("llava-hf/llava-v1.6-vicuna-7b-hf", ""), ("tiny/model", ""),
    ],
)  # fmt: skip
def test_models_are_recognised_by_their_name(model_name, model):
    assert known_model(model_name) == model


def test_published_figures_are_shown_beside_ours_with_what_differs(tmp_path, caplog):
    path = official.pope(tmp_path / "pope")
    rows = [
        {"question_id": f"{split}:{k}", "text": "Yes"}
        for split in ("random", "popular", "adversarial")
        for k in range(1, 5)
    ]
    answers = official.jsonl(tmp_path / "a.jsonl", rows)
    content = score_answers("pope", path, answers, tmp_path / "out", settings=EvaluationSettings(num_resamples=20),
                            model="llava-hf/llava-1.5-7b-hf")  # fmt: skip
    published = content.to_plain()["benchmarks"]["pope"]["published"]
    assert {(row["paper"], row["metric"], round(row["value"], 4)) for row in published} >= {
        ("seva", "f1", 0.859), ("pds_dpo", "f1", 0.861), ("seva", "f1_adversarial", 0.817),
    }  # fmt: skip
    assert published[0]["differs"] == ["12 questions instead of 8910 or 9000"]
    assert "not as published: 12 questions" in caplog.text
    assert (tmp_path / "out" / "answers-llava-hf-llava-1.5-7b-hf.parquet").is_file()
    plain = score_answers("pope", path, answers, tmp_path / "o2", settings=EvaluationSettings(num_resamples=20))
    assert "published" not in plain.to_plain()["benchmarks"]["pope"]
