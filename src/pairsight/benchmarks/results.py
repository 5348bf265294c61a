"""What an evaluation says: metrics with intervals, the paired differences, and the `results.json` they stand in."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairsight.benchmarks.protocol import Benchmark
from pairsight.benchmarks.scoring import ScoreTable
from pairsight.errors import RunError
from pairsight.statistics import Resampled, differences, estimates
from pairsight.store.durable import write_file
from pairsight.store.lock import folder_lock

SCHEMA = 1
Row = dict[str, Any]


def metric_rows(benchmark: Benchmark, tables: Sequence[ScoreTable], resampled: Sequence[Resampled]) -> dict[str, Row]:
    """Metric -> its row, from one model's table, or from the base's and the aligned model's.

    One model: value, low, high. Two: base, aligned, difference, low, high (of the difference), p_value,
    unparsed_base. Both: better, num_items, unparsed.

    Args:
        benchmark: whose metrics.
        tables: one, or the base's and the aligned model's of the same groups.
        resampled: the same tables, resampled together.
    """
    last = tables[-1]
    counts: Row = {"num_items": int(last.num_items.sum()), "unparsed": int(last.num_unparsed.sum())}
    rows: dict[str, Row] = {}
    if len(tables) == 1:
        for name, estimate in estimates(resampled[0]).items():
            rows[name] = {field: finite(getattr(estimate, field)) for field in ("value", "low", "high")}
    else:
        counts["unparsed_base"] = int(tables[0].num_unparsed.sum())
        for name, difference in differences(resampled[0], resampled[1]).items():
            fields = ("base", "aligned", "difference", "low", "high", "p_value")
            rows[name] = {field: finite(getattr(difference, field)) for field in fields}
    return {name: {**row, "better": benchmark.better.get(name, "neither"), **counts} for name, row in rows.items()}


def update_results(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `content` into the `results.json` at `path`, atomically; what it does not mention stays.

    Mappings merge by name, all the way down to the benchmarks, each of which is replaced whole.

    Returns:
        The whole content as written.

    Raises:
        RunError: the file there is not JSON or has another schema.
    """
    with folder_lock(path.parent):
        whole: dict[str, Any] = _merged(_read(path) if path.exists() else {"schema": SCHEMA}, content)
        text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_file(path, text.encode("utf-8", "backslashreplace"))
    return whole


def _read(path: Path) -> dict[str, Any]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); move it away and run again") from None
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        found = whole.get("schema") if isinstance(whole, dict) else type(whole).__name__
        raise RunError(f"{path} has schema {found!r}, this Pairsight writes {SCHEMA}: choose another --out")
    return whole


def _merged(there: Any, here: Any, name: str = "") -> Any:
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return here
    if name == "benchmarks":
        return {**there, **here}
    return {**there, **{key: _merged(there.get(key), value, key) for key, value in here.items()}}


def finite(value: float) -> float | None:
    """The number for JSON, None where it is undefined."""
    return float(value) if math.isfinite(value) else None
