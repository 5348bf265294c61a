"""Figures from plain numbers, as SVG text: intervals, histogram, lines, bars, heat map.

Deterministic (no dates, ids from the content), readable at phone width, colours from Okabe and Ito's
colour-blind-safe set. Text and axes take the page's `currentColor`, series the page's `--series-N`, so that a
figure inside a page follows its light or dark theme; alone it is dark on white. Labels are plain text: neither
mark-up nor TeX in them has any effect.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "D", "s", "^", "v", "P")
_INK = "#010203"
_FAINT = "#040506"
_WIDTH = 5.0
_ROW = 0.3
_LONGEST_LABEL = 36

Estimate = tuple[float, float, float] | None
"""(value, low, high), or None where there is nothing to show."""


def intervals(labels: Sequence[str], series: Mapping[str, Sequence[Estimate]], *, x_label: str, alt: str) -> str:
    """A forest plot: one row a label, one point with its interval a series, and a line at zero.

    Args:
        labels: the rows, top first.
        series: name -> one (value, low, high) or None per label.
        x_label: what is on the axis.
        alt: the figure in words, for those who do not see it.

    Returns:
        SVG text.
    """
    step = 0.8 / max(len(series), 1)
    with _figure(0.8 + _ROW * len(labels) * max(1.0, 0.6 * len(series)), alt) as (axes, out):
        axes.axvline(0.0, color=_INK, linewidth=0.8)
        for index, (name, points) in enumerate(series.items()):
            shown = [(row, point) for row, point in enumerate(points) if point is not None]
            rows = [row - 0.4 + step * (index + 0.5) for row, _ in shown]
            values = np.array([point for _, point in shown], dtype=float).reshape(-1, 3)
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            axes.errorbar(
                values[:, 0], rows, xerr=errors, linestyle="none", label=_label(name), markersize=4.5, linewidth=1.4,
                color=_colour(index), marker=_MARKERS[index % len(_MARKERS)],
            )  # fmt: skip
        axes.set_yticks(range(len(labels)), _labels(labels))
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(_label(x_label))
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color=_FAINT, linewidth=0.5)
        _legend(axes, len(series))
    return out[0]


def histogram(
    series: Mapping[str, Sequence[float] | NDArray[np.float64]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    level: float | None = None,
) -> str:
    """Overlaid histograms on shared bins; integers get bins of integer width.

    Args:
        series: name -> its values.
        x_label: what the values are.
        y_label: what is counted.
        alt: the figure in words.
        level: a value to mark with a line, such as zero.

    Returns:
        SVG text.
    """
    edges = bin_edges(np.concatenate([np.empty(0), *(np.asarray(values, float) for values in series.values())]))
    with _figure(2.4, alt) as (axes, out):
        for index, (name, values) in enumerate(series.items()):
            heights, _ = np.histogram(np.asarray(values, dtype=float), bins=edges)
            axes.stairs(heights, edges, fill=True, color=_colour(index), alpha=0.25)
            axes.stairs(heights, edges, color=_colour(index), linewidth=1.5, label=_label(name))
        if level is not None:
            axes.axvline(level, color=_INK, linewidth=0.8)
        axes.set_ylim(bottom=0)
        _integer_ticks(axes.yaxis, True)
        _integer_ticks(axes.xaxis, edges[0] % 1 == 0.5)
        _finish(axes, x_label, y_label, len(series))
    return out[0]


def bin_edges(values: Sequence[float] | NDArray[np.float64], num_bins: int = 24) -> NDArray[np.float64]:
    """Edges of at most `num_bins` equal bins; centred on integers when all values are integers."""
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        return np.array([0.0, 1.0])
    low, high = float(data.min()), float(data.max())
    if np.all(data == np.round(data)):
        width = float(max(1, int(np.ceil((high - low + 1) / num_bins))))
        count = int(np.ceil((high - low + 1) / width))
        return np.linspace(low - 0.5, low - 0.5 + width * count, count + 1)
    return np.linspace(low, high, num_bins + 1)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    level: float | None = None,
) -> str:
    """Curves over a shared axis.

    Args:
        series: name -> (x, y) of equal length.
        x_label: what x is.
        y_label: what y is.
        alt: the figure in words.
        level: a height to mark with a thin line, such as chance.

    Returns:
        SVG text.
    """
    with _figure(2.2, alt) as (axes, out):
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for index, (name, (x, y)) in enumerate(series.items()):
            marker = _MARKERS[index % len(_MARKERS)] if len(x) <= 12 else None
            style = ("-", "--", "-.", ":")[index // len(SERIES_COLOURS) % 4]
            axes.plot(
                x,
                y,
                color=_colour(index),
                linewidth=1.6,
                linestyle=style,
                marker=marker,
                markersize=3.5,
                label=_label(name),
            )
        _integer_ticks(axes.xaxis, all(float(value).is_integer() for x, _ in series.values() for value in x))
        _finish(axes, x_label, y_label, len(series))
    return out[0]


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], *, x_label: str, alt: str) -> str:
    """Horizontal bars, grouped by label, with their values written out.

    Args:
        labels: the groups, top first.
        series: name -> one value per label.
        x_label: what the length of a bar is.
        alt: the figure in words.

    Returns:
        SVG text.
    """
    step = 0.76 / max(len(series), 1)
    with _figure(0.7 + _ROW * len(labels) * max(1.0, 0.7 * len(series)), alt) as (axes, out):
        for index, (name, values) in enumerate(series.items()):
            rows = [row - 0.38 + step * (index + 0.5) for row in range(len(labels))]
            drawn = axes.barh(rows, values, height=step * 0.92, color=_colour(index), label=_label(name))
            texts = [_written(f"{value:g}") for value in np.round(values, 3)]
            axes.bar_label(drawn, labels=texts, padding=3, fontsize=8)
        axes.set_yticks(range(len(labels)), _labels(labels))
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.axvline(0.0, color=_INK, linewidth=0.7)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.14)
        axes.set_xlabel(_label(x_label))
        _legend(axes, len(series))
    return out[0]


def heatmap(
    values: Sequence[Sequence[float | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    alt: str,
) -> str:
    """A table of correlations with colour from orange (−1) over white to blue (1); None is left blank.

    Args:
        values: one row of numbers per row label.
        row_labels: rows, top first.
        column_labels: columns, left first.
        alt: the figure in words.

    Returns:
        SVG text.
    """
    from matplotlib.colors import LinearSegmentedColormap

    map_ = LinearSegmentedColormap.from_list("two_sided", [SERIES_COLOURS[1], "#f7f7f7", SERIES_COLOURS[0]])
    grid = np.array([[np.nan if value is None else float(value) for value in row] for row in values])
    with _figure(0.9 + 0.36 * len(row_labels), alt) as (axes, out):
        for row, column in np.ndindex(grid.shape):
            value = grid[row, column]
            if np.isnan(value):
                continue
            share = float(np.clip((value + 1.0) / 2.0, 0.0, 1.0))
            axes.add_patch(_square(column, row, map_(share)))
            ink = "#ffffff" if abs(share - 0.5) > 0.36 else "#111111"
            axes.text(column, row, _written(f"{value:.2f}"), ha="center", va="center", color=ink, fontsize=8)
        axes.set_xlim(-0.5, len(column_labels) - 0.5)
        axes.set_ylim(len(row_labels) - 0.5, -0.5)
        axes.set_xticks(
            range(len(column_labels)), _labels(column_labels), rotation=30, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(row_labels)), _labels(row_labels))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return out[0]


def _square(column: float, row: float, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=colour, edgecolor="none")


def _label(text: str) -> str:
    """One line without controls or direction marks; a leading underscore would hide it from a legend."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
    return f"\u200b{line}" if line.startswith("_") else line


def _labels(texts: Sequence[str]) -> list[str]:
    return [_label(text) for text in texts]


def _written(number: str) -> str:
    return number.replace("-", "−")


def _colour(index: int) -> str:
    return SERIES_COLOURS[index % len(SERIES_COLOURS)]


def _integer_ticks(axis: Any, integers: bool) -> None:
    """Ticks at integers only, where the values are integers."""
    if integers:
        axis.get_major_locator().set_params(integer=True)


def _finish(axes: Any, x_label: str, y_label: str, num_series: int) -> None:
    axes.set_xlabel(_label(x_label))
    axes.set_ylabel(_label(y_label))
    axes.grid(axis="y", color=_FAINT, linewidth=0.5)
    _legend(axes, num_series)


def _legend(axes: Any, num_series: int) -> None:
    if num_series > 1:
        axes.figure.legend(loc="outside upper left", ncols=min(num_series, 3), frameon=False, fontsize=8)


_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "text.parse_math": False, "text.usetex": False, "axes.unicode_minus": True, "svg.fonttype": "none",
    "legend.labelcolor": _INK, "axes.formatter.useoffset": False,
}  # fmt: skip


@contextmanager
def _figure(height: float, alt: str) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; the SVG text is in the list when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out: list[str] = []
    style = {**_STYLE, "svg.hashsalt": "pairsight"}
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.simplefilter("ignore", UserWarning)  # a glyph missing here is drawn by the page's font
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot(), out
        buffer = io.StringIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    out.append(_for_a_page(buffer.getvalue(), alt))


def _for_a_page(svg: str, alt: str) -> str:
    """Leave out the prologue, give ids of its own to each figure, and take colours and fonts from the page."""
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"url\(#([\w-]+)\)", svg)) | set(re.findall(r'href="#([\w-]+)"', svg))
    own = "f" + sha256((svg + alt).encode("utf-8", "replace")).hexdigest()[:8]

    def fix_tag(match: re.Match[str]) -> str:
        tag = re.sub(r' id="([\w.-]+)"', lambda id_: f' id="{own}-{id_[1]}"' if id_[1] in used else "", match[0])
        tag = re.sub(r"(url\(#|href=\"#)", rf"\1{own}-", tag)
        tag = re.sub(r'style="[^"]*"', lambda style: _page_colours(style[0]), tag)
        if not tag.startswith("<svg"):
            return tag
        tag = re.sub(r' (width|height)="[^"]*"', "", tag)
        return tag.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" class="figure"', 1)

    svg = re.sub(r"<[^>]+>", fix_tag, svg)
    return svg.encode("utf-8", "replace").decode("utf-8").strip()


def _page_colours(style: str) -> str:
    style = style.replace(_INK, "currentColor").replace(_FAINT, "var(--grid, #dddddd)")
    for number, colour in enumerate(SERIES_COLOURS, start=1):
        style = style.replace(colour, f"var(--series-{number}, {colour})")
    return style.replace("'DejaVu Sans'", "var(--sans, sans-serif)")
