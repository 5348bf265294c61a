"""Run folders: created once, resumed by the same config, refused to others, locked by phase."""

import json
import logging
import multiprocessing
from pathlib import Path

import pytest
import yaml

from pairsight.errors import LockedError, RunError
from pairsight.store.run_folder import RunFolder

CONFIG = {"recipe": "seva", "model": Path("models/base"), "seed": 0, "sampling": {"temperature": 0.7}, "tags": ("a",)}


def test_a_new_run_holds_its_config_and_versions(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "first", CONFIG)
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == {**CONFIG, "model": "models/base", "tags": ["a"]}
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["schema"] == 1
    assert {"pairsight", "python", "torch", "transformers", "sqlite"} <= set(versions["packages"])
    assert RunFolder.open(run.path).config == run.config
    assert run.evaluate("held-out") == run.path / "evaluate" / "held-out"
    assert run.align("dpo") == run.path / "align" / "dpo"


def test_the_same_config_goes_on_with_the_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG)
    before = (tmp_path / "run.yaml").read_bytes()
    RunFolder.create(tmp_path, {**CONFIG, "workers": 4}, free=("workers",))
    assert (tmp_path / "run.yaml").read_bytes() == before


def test_an_inner_option_may_be_free_too(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG)
    moved = {**CONFIG, "sampling": {"temperature": 0.9}}
    RunFolder.create(tmp_path, moved, free=("sampling.temperature",))
    with pytest.raises(RunError, match=r"sampling.temperature: 0.7 there"):
        RunFolder.create(tmp_path, moved, free=("temperature", "sampling.top_p"))


def test_another_config_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG)
    other = {**CONFIG, "seed": 1, "sampling": {"temperature": 1.0}, "limit": 5}
    with pytest.raises(RunError) as error:
        RunFolder.create(tmp_path, other)
    assert "seed: 0 there, 1 here; sampling.temperature: 0.7 there, 1.0 here; limit: None there, 5 here" in str(
        error.value
    )


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, {str(i): i for i in range(9)})
    with pytest.raises(RunError, match="2: 2 there, None here; 6 more"):
        RunFolder.create(tmp_path, {})


def test_a_folder_of_something_else_is_refused_and_hidden_files_are_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    RunFolder.create(tmp_path, CONFIG)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").touch()
    with pytest.raises(RunError, match=r"is not empty \(thesis.doc\) and holds no run"):
        RunFolder.create(other, CONFIG)
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(other / "thesis.doc", CONFIG)
    with pytest.raises(RunError, match=r"has no run\.yaml"):
        RunFolder.open(other)


def test_a_newer_run_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG)
    (tmp_path / "versions.json").write_text('{"schema": 2, "packages": {"pairsight": "9.0"}}')
    with pytest.raises(RunError, match=r"made by Pairsight 9\.0, newer than .*: upgrade"):
        RunFolder.create(tmp_path, CONFIG)


def _try_lock(path: Path, phase: str, answer: "multiprocessing.Queue[str]") -> None:
    try:
        with RunFolder.open(path).lock(phase):
            answer.put("held")
    except LockedError as error:
        answer.put(str(error))


def test_one_process_a_phase(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[str] = context.Queue()
    with run.lock("build"):
        assert run.locked_by("build") is not None
        for phase in ("build", "evaluate-held-out"):
            child = context.Process(target=_try_lock, args=(tmp_path, phase, answer))
            child.start()
            child.join()
        assert f"process {run.locked_by('build')} on" in answer.get(timeout=10)
        assert answer.get(timeout=10) == "held"
    assert run.locked_by("build") is None
    with run.lock("build"):
        pass


def test_a_lock_whose_process_is_gone_is_free(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    with run.lock("build"):
        note = json.loads((tmp_path / ".locks" / "build").read_text())
    (tmp_path / ".locks" / "build").write_text(json.dumps({**note, "pid": 2**22 + 1}))
    assert run.locked_by("build") is None
    with run.lock("build"):
        pass


def test_the_log_is_a_file_people_can_read(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    with run.log():
        logging.getLogger("pairsight.engine").info("generate: %d done", 3)
    logging.getLogger("pairsight.engine").warning("not in the log any more")
    with pytest.raises(RunError), run.log():
        raise RunError("the disk\nis full")
    log = (tmp_path / "run.log").read_text()
    assert "INFO pairsight.engine: generate: 3 done" in log
    assert "ERROR pairsight.run: stopped by RunError: the disk is full" in log
    assert "any more" not in log


def test_changed_versions_are_logged(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    versions = json.loads((tmp_path / "versions.json").read_text())
    versions["packages"]["torch"] = "1.0"
    (tmp_path / "versions.json").write_text(json.dumps(versions))
    with run.log():
        pass
    assert "started with other versions: torch 1.0 →" in (tmp_path / "run.log").read_text()


def test_a_name_that_is_not_utf8_is_refused_and_one_in_a_message_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"o\ufffd is not UTF-8"):
        RunFolder.create(tmp_path / "o\udcff", CONFIG)
    assert list(tmp_path.iterdir()) == []
    run = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="no folder"), run.log():
        logging.getLogger("pairsight.test").warning("model %s", "m\udcff")
        raise ValueError("no folder m\udcff")
    assert "Traceback" not in capsys.readouterr().err
    log = (run.path / "run.log").read_text()
    assert r"model m\udcff" in log
    assert "stopped by ValueError: no folder m\ufffd" in log
