"""Files of a stranger's run with right checksums and other content: every verb ends in one line, and no code runs."""

import hashlib
import json
import os
import pickle
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from strangers import VERBS, call, outside

Damage = Callable[[Path], None]
DEEP = '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"
CHECKPOINTS = "align/dpo/checkpoints/checkpoint-*"


def sealed(table: str, content: bytes | pa.Table) -> Damage:
    """A sealed table with other content, whose hash the manifest has."""

    def damage(run: Path) -> None:
        file, manifest = run / "data" / f"{table}-00000.parquet", run / "data" / "manifest.json"
        file.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, file)
        listed = json.loads(manifest.read_text())
        listed["tables"][table][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(listed))

    return damage


def written(pattern: str, content: str | bytes) -> Damage:
    def damage(run: Path) -> None:
        for file in [*run.glob(pattern)] or [run / pattern]:
            file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return damage


def changed(path: str, **values: object) -> Damage:
    """A JSON or YAML file with other values."""

    def damage(run: Path) -> None:
        content = {**yaml.safe_load((run / path).read_text()), **values}
        (run / path).write_text(json.dumps(content) if path.endswith("json") else yaml.safe_dump(content))

    return damage


def unfinished(*damages: Damage) -> Damage:
    """The training goes on from its newest checkpoint."""

    def damage(run: Path) -> None:
        (run / "align/dpo/pairsight.json").unlink()
        for one in damages:
            one(run)

    return damage


def marked(change: Callable[[dict[str, Any], Path], object]) -> Damage:
    """Checkpoints whose mark says something else, and has the right checksum."""

    def damage(run: Path) -> None:
        for mark in sorted(run.glob(f"{CHECKPOINTS}/complete.json")):
            content = json.loads(mark.read_text())
            del content["sha256"]
            change(content, mark.parent)
            content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            mark.write_text(json.dumps(content))

    return unfinished(damage)


def with_file(name: str, data: Callable[[Path], bytes]) -> Damage:
    """Checkpoints with another file of that name, whose hash the mark has, and steps to come."""

    def change(content: dict[str, Any], folder: Path) -> None:
        (folder / name).write_bytes(data(folder))
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        content["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": digest}
        content["ended"] = False

    return marked(change)


class Planted:
    """An object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


def pickled(folder: Path) -> bytes:
    return pickle.dumps({"a": Planted(folder.parents[5] / "ran")})


def recorded(about: object, raw: bytes = b"") -> Damage:
    """One more journal with an intact record."""

    def damage(run: Path) -> None:
        body = json.dumps(about).encode() + b"\n" + raw
        (run / "journal").mkdir(exist_ok=True)
        number = max((int(file.stem) for file in (run / "journal").glob("*.journal")), default=0) + 1
        head = struct.pack("<4sII", b"PSJ1", len(body), zlib.crc32(body))
        (run / "journal" / f"{number:05d}.journal").write_bytes(head + body)

    return damage


def executed(*statements: str) -> Damage:
    def damage(run: Path) -> None:
        ledger = sqlite3.connect(run / "ledger.sqlite", isolation_level=None)
        for statement in statements:
            ledger.execute(statement)
        ledger.close()

    return damage


def full_model(name: str, content: str) -> Damage:
    """A fully trained model in the run, one file of which is other."""

    def damage(run: Path) -> None:
        folder = run / "align" / "full"
        shutil.copytree(yaml.safe_load((run / "align/dpo/align.yaml").read_text())["model"], folder)
        (folder / "pairsight.json").write_text('{"kind": "model"}')
        (folder / name).write_text(content)

    return damage


def header(content: object) -> Damage:
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    return written("align/dpo/adapter_model.safetensors", len(text).to_bytes(8, "little") + text)


def numbers(**columns: object) -> pa.Table:
    return pa.table(columns)


PAIR = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
FOREIGN = "not as this version writes them"


@dataclass(frozen=True, slots=True)
class Case:
    """A damage, a verb that reads what is damaged, and what it then says; empty where it needs not say anything."""

    damage: Damage
    verb: str
    words: str
    status: int = 1


CASES = {
    "dropped: not Parquet": Case(sealed("dropped", b"no"), "inspect", "dropped-00000.parquet was not written by"),
    "candidates: not Parquet": Case(sealed("candidates", b"no"), "status", "candidates-00000.parquet was not written"),
    "pairs: not Parquet": Case(sealed("pairs", b"no"), "status", "pairs-00000.parquet was not written by"),
    "dropped: other columns": Case(sealed("dropped", numbers(x=[1])), "inspect", "'item_id' is missing"),
    "dropped: other columns, aligned": Case(sealed("dropped", numbers(x=[1])), "align", "'item_id' is missing"),
    "dropped: other types": Case(
        sealed("dropped", numbers(item_id=[1], stage=[2], reason=[[3]], detail=[None])), "inspect", "'item_id' is int64"
    ),
    "dropped: no values": Case(
        sealed(
            "dropped", numbers(**{name: pa.nulls(1, pa.string()) for name in ("item_id", "stage", "reason", "detail")})
        ),
        "inspect",
        "rows without a value",
    ),
    "candidates: numbers": Case(sealed("candidates", numbers(record=[1])), "status", "has 1 rows"),
    "candidates: numbers, aligned": Case(sealed("candidates", numbers(record=[1])), "align", "must be text"),
    "candidates: no values": Case(
        sealed("candidates", numbers(record=pa.nulls(1, pa.string()))), "align", "row 1 holds no Candidates"
    ),
    "pairs: numbers": Case(sealed("pairs", numbers(**PAIR, record=[1])), "inspect", "holds no PreferencePair"),
    "pairs: lists": Case(sealed("pairs", numbers(**PAIR, record=[["x"]])), "inspect", "holds no PreferencePair"),
    "locks: deep": Case(written(".locks/build", DEEP), "status", "", 0),
    "versions.json: a list": Case(changed("versions.json", packages=[]), "status", "versions.json is missing or"),
    "versions.json: pairs": Case(changed("versions.json", packages=[["a", "b"]]), "status", "versions.json is missing"),
    "align.yaml: a number": Case(changed("align/dpo/align.yaml", training=3), "align again", "'training' must hold"),
    "run.yaml: numbers": Case(changed("run.yaml", recipe=3, recipe_file=4, strategy_file=3), "align", ""),
    "pairsight.json: deep": Case(written("align/dpo/pairsight.json", DEEP), "status", "pairsight.json is damaged"),
    "adapter_config.json: deep": Case(written("align/dpo/adapter_config.json", DEEP), "status", "bytes instead of"),
    "complete.json: deep": Case(written(f"{CHECKPOINTS}/complete.json", DEEP), "status", "complete.json is damaged"),
    "metrics.jsonl: deep": Case(unfinished(written("align/dpo/metrics.jsonl", DEEP + "\n")), "align again", "", 0),
    "metrics.jsonl: other values": Case(
        unfinished(written("align/dpo/metrics.jsonl", b'3\n[]\n{"step": "x"}\n{"step": [1]}\n\xff\n')), "align again",
        "", 0,
    ),
    "results.json: deep": Case(written("results.json", DEEP), "status", "run/results.json cannot be read"),
    "weights: deep header": Case(header(DEEP), "status", "adapter_model.safetensors has"),
    "weights: numbers": Case(header({"a": 3}), "evaluate", "has no adapter that can be evaluated"),
    "references: deep header": Case(
        written("references/*.safetensors", len(DEEP).to_bytes(8, "little") + DEEP.encode()), "status", "cut short or"
    ),
    "journal: an attempt of a number": Case(recorded({"kind": "attempt", "row": 3}, b"x"), "retry", FOREIGN),
    "journal: an attempt of nothing": Case(recorded({"kind": "attempt"}, b"x"), "status", FOREIGN),
    "journal: rows of numbers": Case(recorded({"kind": "results", "rows": [3]}), "retry", FOREIGN),
    "journal: a time of text": Case(
        recorded({"kind": "results", "rows": [[1, "zz", 0, "n", 0]], "stages": ["generate"], "at_s": "x"}), "retry",
        FOREIGN,
    ),
    "journal: names of lists": Case(
        recorded({"kind": "results", "rows": [[[], "00", 0, {}, 0]], "stages": ["generate"], "at_s": 9e9}, b"{}"),
        "retry", FOREIGN,
    ),
    "journal: a number too large": Case(
        recorded({"kind": "results", "rows": [[2**70, "00", 0, "n", 0]], "stages": ["g"], "at_s": 9e9}, b"{}"), "retry",
        FOREIGN,
    ),
    "journal: keys of a number": Case(recorded({"kind": "retry", "keys": 3}), "retry", FOREIGN),
    "journal: keys of text": Case(
        recorded({"kind": "retry", "keys": ["xx"], "attempts": [], "at_s": 1}), "retry", FOREIGN
    ),
    "journal: of a later kind": Case(recorded({"kind": "hello"}), "retry", "", 0),
    "ledger: text for numbers": Case(
        executed("update results set committed_s='x', status='y', parser_version='z'"), "status", "is damaged"
    ),
    "ledger: a time of text": Case(executed("update results set committed_s='x'"), "status", "of another type"),
    "ledger: names of bytes": Case(executed("update items set name=x'ff'"), "status", "of another type"),
    "ledger: names of bytes, sealed": Case(executed("update items set name=x'ff'"), "build", "ledger.sqlite"),
    "ledger: stages of bytes": Case(executed("update stages set name=x'ff'"), "retry", "of another type"),
    "ledger: a plan of text": Case(executed("update plans set expected='many'"), "status", "of another type"),
    "checkpoint: no step": Case(marked(lambda c, _: c.pop("step")), "align again", "complete.json was not written", 0),
    "checkpoint: a state of a number": Case(
        marked(lambda c, _: c.update(loss_state=3, ended=False)), "align again", "complete.json was not written", 0
    ),
    "checkpoint: another best": Case(
        marked(lambda c, _: c.update(held_out={"step": "x"})), "align again", "complete.json was not written", 0
    ),
    "checkpoint: a trainer of a list": Case(
        with_file("trainer_state.json", lambda _: b"[]"), "align again", "trainer_state.json is not of", 0
    ),
    "checkpoint: code for an optimizer": Case(
        with_file("optimizer.pt", pickled), "align again", "holds no state of this training's optimizer"
    ),
    "checkpoint: code for a schedule": Case(
        with_file("scheduler.pt", pickled), "align again", "holds no state of this training's optimizer"
    ),
    "checkpoint: code for a generator": Case(with_file("rng_state.pth", pickled), "align again", "", 0),
    "checkpoint: no weights": Case(with_file("weights.safetensors", lambda _: b"x" * 99), "align again", "no weights"),
    "adapter: odd numbers": Case(
        changed("align/dpo/adapter_config.json", r="x", target_modules=3), "evaluate", "does not fit the model"
    ),
    "adapter: half a pair": Case(
        written("align/dpo/inference.json", '{"prompt_suffix": "\\ud83d"}'), "evaluate", "half a surrogate pair"
    ),
    "model: an index of a number": Case(
        full_model("model.safetensors.index.json", '{"weight_map": 3}'), "evaluate", "must name files", 0
    ),
    "model: files of numbers": Case(
        full_model("model.safetensors.index.json", '{"weight_map": {"a": 3}}'), "evaluate", "lacks 1 of 1", 0
    ),
    "model: a fingerprint of a list": Case(
        full_model("pairsight.json", '{"base_fingerprint": [1]}'), "evaluate", "was trained from another model", 0
    ),
}  # fmt: skip
QUICK = ("status", "inspect", "retry")
IN_CI = ("align.yaml: a number", "dropped: other columns, aligned", "checkpoint: code for an optimizer",
         "checkpoint: no step", "model: an index of a number", "metrics.jsonl: deep")  # fmt: skip
"""Cases of slow verbs that are tried in CI."""
SHORT = [
    pytest.param(name, marks=() if case.verb in QUICK or name in IN_CI else pytest.mark.long)
    for name, case in CASES.items()
]


def tried(verb: str, run: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Its exit status and all that it said: at most one error, no traceback, and nothing is written elsewhere."""
    before = outside(run)
    status = call(verb, run, world)
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert status in (0, 1, 3)
    assert len(errors) == (status == 1), said.err
    assert "Traceback" not in said.err
    assert "Logging error" not in said.err
    assert all(len(line) < 2_000 for line in said.err.splitlines())
    assert outside(run) == before  # no planted code ran, either: it would have left a file
    return status, said.out + said.err


@pytest.mark.parametrize("name", SHORT)
def test_content_that_is_not_ours_is_one_line(
    name: str, run: Path, world: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    case.damage(run)
    status, said = tried(case.verb, run, world, capsys)
    assert status == case.status, said
    assert case.words in said + caplog.text


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_no_verb_ends_in_a_traceback(
    name: str, template: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in VERBS:
        run = tmp_path / verb.replace(" ", "-") / "inside" / "run"
        shutil.copytree(template, run)
        CASES[name].damage(run)
        tried(verb, run, world, capsys)


@pytest.mark.parametrize("name", ["journal: rows of numbers", "ledger: stages of bytes", "ledger: a time of text"])
def test_what_the_lines_advise_helps(name: str, run: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`salvage` rebuilds ledger and journal; the build then makes the rest and every check passes."""
    CASES[name].damage(run)
    assert tried("status", run, world, capsys)[0] == 1
    assert tried("salvage", run, world, capsys)[0] == 0
    assert tried("build", run, world, capsys)[0] == 0
    assert tried("status", run, world, capsys)[0] == 0
