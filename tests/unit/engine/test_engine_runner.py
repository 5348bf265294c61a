"""The runner: what is there is not made again, failures are kept, interruptions lose nothing that was made."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pairsight.engine.progress import Progress
from pairsight.engine.runner import Runner
from pairsight.engine.stage import Resources
from pairsight.errors import RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Ledger


@dataclass(frozen=True)
class Upper:
    """Upper case of a word; words with an 'x' fail. It notes what it was asked."""

    suffix: str = ""
    name: str = "upper"
    version: int = 1
    output: type[ImageRef] = ImageRef
    resources: Resources = field(default_factory=Resources)
    batch_size: int = 2
    interrupt_at: str = ""
    asked: list[list[str]] = field(default_factory=list)
    life: list[str] = field(default_factory=list)

    def key(self, item: str) -> dict[str, str]:
        return {"word": item, "suffix": self.suffix}

    def item_id(self, item: str) -> str:
        return f"word {item}"

    def setup(self) -> None:
        self.life.append("setup")

    def process(self, items: Sequence[str]) -> Iterator[ImageRef | ItemError]:
        self.asked.append(list(items))
        for item in items:
            if item == self.interrupt_at:
                raise KeyboardInterrupt
            yield ItemError("has_x", f"in {item}") if "x" in item else ImageRef(item.upper() + self.suffix)

    def close(self) -> None:
        self.life.append("close")


def run(path: Path, stage: Upper, items: Iterable[str], **options: object) -> list[str]:
    with Ledger(path / "ledger.sqlite") as ledger:
        results = Runner(ledger, **options)(stage, items)  # type: ignore[arg-type]
        return [result.reason if isinstance(result, ItemError) else result.sha256 for result in results]


def test_every_item_has_its_result_in_order(tmp_path: Path) -> None:
    stage = Upper()
    assert run(tmp_path, stage, ["a", "bx", "c"]) == ["A", "has_x", "C"]
    assert stage.asked == [["a", "bx"], ["c"]]
    assert stage.life == ["setup", "close"]


def test_a_second_run_makes_nothing_and_sets_nothing_up(tmp_path: Path) -> None:
    run(tmp_path, Upper(), ["a", "bx"])
    again = Upper()
    assert run(tmp_path, again, ["a", "bx"]) == ["A", "has_x"]
    assert again.asked == again.life == []


def test_only_new_items_are_made_whatever_the_batch_size(tmp_path: Path) -> None:
    run(tmp_path, Upper(batch_size=3), ["a", "b", "c"])
    stage = Upper(batch_size=1)
    assert run(tmp_path, stage, ["c", "d", "a", "e"]) == ["C", "D", "A", "E"]
    assert stage.asked == [["d"], ["e"]]


@pytest.mark.parametrize("changed", [Upper(suffix="!"), Upper(version=2), Upper(name="other")])
def test_what_determines_the_result_makes_all_again(tmp_path: Path, changed: Upper) -> None:
    run(tmp_path, Upper(), ["a", "b"])
    run(tmp_path, changed, ["a", "b"])
    assert changed.asked == [["a", "b"]]


def test_an_item_given_twice_is_made_once(tmp_path: Path) -> None:
    stage = Upper(batch_size=1)
    items = ["a", "b", "a"] + ["c"] * 5000 + ["a"]
    assert run(tmp_path, stage, items) == [item.upper() for item in items]
    assert stage.asked == [["a"], ["b"], ["c"]]


def test_an_interruption_keeps_what_was_made(tmp_path: Path) -> None:
    stage = Upper(interrupt_at="d")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage, "abcdef")
    assert stage.life == ["setup", "close"]
    again = Upper()
    assert run(tmp_path, again, "abcdef") == list("ABCDEF")
    assert again.asked == [["d", "e"], ["f"]]


def test_results_feed_the_next_stage_lazily(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        runner = Runner(ledger)
        first = runner(Upper(), ["a", "bx", "c"])
        words = (result.sha256 for result in first if isinstance(result, ImageRef))
        second = runner(Upper(suffix="!"), words)
        assert [r.sha256 for r in second if isinstance(r, ImageRef)] == ["A!", "C!"]
        assert (len(first), len(second)) == (3, 2)
        assert [result.reason for result in first if isinstance(result, ItemError)] == ["has_x"]


def test_failures_are_tried_again_only_on_retry(tmp_path: Path) -> None:
    run(tmp_path, Upper(), ["a", "bx"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.retry()
    stage = Upper()
    run(tmp_path, stage, ["a", "bx"])
    assert stage.asked == [["bx"]]


@dataclass(frozen=True)
class Careless(Upper):
    def process(self, items: Sequence[str]) -> Iterator[ImageRef | ItemError]:
        yield from list(super().process(items))[1:]


def test_a_stage_that_loses_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="stage 'upper' gave 1 results for 2 items"):
        run(tmp_path, Careless(), ["a", "b"])


@dataclass(frozen=True)
class Broken(Upper):
    def process(self, items: Sequence[str]) -> Iterator[ImageRef | ItemError]:
        yield ImageRef("A")
        raise ValueError("a bug")


def test_a_bug_is_shown_and_what_was_made_before_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"):
        run(tmp_path, Broken(), ["a", "b"])
    stage = Upper()
    assert run(tmp_path, stage, ["a", "b"]) == ["A", "B"]
    assert stage.asked == [["b"]]


def test_no_items_no_work(tmp_path: Path) -> None:
    stage = Upper()
    assert run(tmp_path, stage, []) == []
    assert stage.life == []


def test_progress_counts_done_reused_and_failed(tmp_path: Path) -> None:
    run(tmp_path, Upper(), ["a"])
    progress = Progress("quiet")
    run(tmp_path, Upper(), ["a", "bx", "c", "d"], progress=progress)
    (task,) = progress.tasks
    assert (task.name, task.total, task.done, task.reused, task.failed) == ("upper", 4, 2, 1, 1)


def test_failures_are_counted_also_those_of_an_earlier_start(tmp_path: Path) -> None:
    for _ in range(2):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            runner = Runner(ledger)
            for items in (["a", "bx"], ["cx"], ["d"]):
                runner(Upper(), items)
            assert {stage: reasons.total() for stage, reasons in runner.failed.items()} == {"upper": 2}
            assert len(runner.plans) == 3


def test_a_stage_of_which_every_item_failed_ends_the_work_where_that_is_asked(tmp_path: Path) -> None:
    for _ in range(2):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            runner = Runner(ledger, refuse_all_failed=True)
            runner(Upper(), [])
            runner(Upper(), ["a", "bx"])
            with pytest.raises(RunError, match=r"'upper' failed for every item \(2 of 2 .*`pairsight retry ") as error:
                runner(Upper(), ["cx", "dx"])
            assert "\n" not in str(error.value)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [type(one) for one in Runner(ledger)(Upper(), ["cx"])] == [ItemError]


@dataclass(frozen=True)
class Halves(Upper):
    """Makes results, reasons and messages that hold half a surrogate pair, as a file's name may."""

    def process(self, items: Sequence[str]) -> Iterator[ImageRef | ItemError]:
        for item in items:
            yield ItemError(f"no_{item}", f"{item}: no file") if "\udcff" in item else ImageRef(f"{item}\ud83d"[:2])


def test_a_result_that_is_not_unicode_fails_alone_and_is_kept_as_a_failure(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for _ in range(2):
            kept = list(Runner(ledger)(Halves(), ["ab", "c", "de"]))
            assert [kept[0], kept[2]] == [ImageRef("ab"), ImageRef("de")]
            assert isinstance(kept[1], ItemError)
            assert kept[1].reason == "bad_text"


def test_names_and_messages_that_are_not_unicode_are_kept_with_a_mark_in_them(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        (error,) = Runner(ledger)(Halves(), ["x\udcff"])
        assert error == ItemError("no_x\ufffd", "x\ufffd: no file")
        ((plan, stage, *_),) = ledger.plans()
        (row,) = ledger.page(plan, 0, 9)
        assert (stage, row.name, row.reason, row.detail) == ("upper", "word x\ufffd", "no_x\ufffd", "x\ufffd: no file")
