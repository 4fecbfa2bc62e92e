"""Draws the dashboards from what `load.py` wrote; runs in a venv of its own, which has Matplotlib.

The pictures stand beside each other as Grafana's panels do, with the same queries, legends and units.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FuncFormatter, MultipleLocator
from PIL import Image

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "docs/pictures"
_COLUMNS = 24
_MAX_LEGENDS = 10


def shown(value: float, unit: str) -> str:
    """A value in its unit, as Grafana writes it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        if value and abs(value) < 1:
            return f"{value * 1000:.3g} ms"
        return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
    if unit in {"bytes", "Bps"}:
        per = "/s" if unit == "Bps" else ""
        for name in ("B", "KiB", "MiB"):
            if abs(value) < 1024:
                return f"{value:.3g} {name}{per}"
            value /= 1024
        return f"{value:.3g} GiB{per}"
    return (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + {"reqps": " req/s", "ops": " /s"}.get(
        unit, ""
    )


def draw_stat(axes: Any, panel: dict[str, Any]) -> None:
    """The newest value, large."""
    axes.set_axis_off()
    last = [(series["legend"], series["points"][-1][1]) for series in panel["series"]]
    red = panel["red_from"]
    for number, (legend, value) in enumerate(last):
        colour = "#2f2f2f" if red is None else "#c4162a" if value >= red else "#37872d"
        height = 0.45 if len(last) == 1 else 0.75 - number * 0.35
        text = shown(value, panel["unit"])
        if len(last) > 1:
            text = f"{text}  {legend}"
        size = 24 if len(last) == 1 else 10
        axes.text(0.5, height, text, ha="center", va="center", fontsize=size, color=colour, weight="bold")
    axes.set_title(panel["title"], loc="left", fontsize=9, weight="bold")


def draw_series(axes: Any, panel: dict[str, Any], seconds: float) -> None:
    """Lines over the time of the run."""
    series = sorted(panel["series"], key=lambda each: -max(value for _, value in each["points"]))
    if panel["is_stacked"]:
        draw_stacked(axes, series)
    else:
        for each in series:
            at, values = zip(*each["points"], strict=True)
            axes.plot(at, values, linewidth=1.1, label=each["legend"])
    axes.set_xlim(0, seconds)
    axes.set_ylim(bottom=0)
    if panel["top"] is not None:
        axes.set_ylim(top=max(axes.get_ylim()[1], panel["top"]))
    elif axes.get_ylim()[1] < 1e-9:
        axes.set_ylim(top=1)
    axes.set_title(panel["title"], loc="left", fontsize=9, weight="bold")
    if panel["unit"] in {"bytes", "Bps"}:
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 6))))
    axes.xaxis.set_major_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel["unit"])))
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    more = len(labels) - _MAX_LEGENDS
    if more > 0:
        labels[_MAX_LEGENDS - 1] = f"and {more + 1} more"
    axes.legend(
        handles[:_MAX_LEGENDS],
        labels[:_MAX_LEGENDS],
        fontsize=6.5,
        ncols=3,
        loc="upper left",
        bbox_to_anchor=(0, -0.1),
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )


def draw_stacked(axes: Any, series: list[dict[str, Any]]) -> None:
    """One upon the other; a series without a value at a time counts as nothing then."""
    times = sorted({at for each in series for at, _ in each["points"]})
    heights = [[dict(map(tuple, each["points"])).get(at, 0.0) for at in times] for each in series]
    axes.stackplot(times, heights, labels=[each["legend"] for each in series], alpha=0.75, linewidth=0)


def draw(board: dict[str, Any], seconds: float, path: Path) -> None:
    """One dashboard as a picture."""
    lines: list[tuple[str, list[dict[str, Any]]]] = []
    for title, row in board["rows"].items():
        line: list[dict[str, Any]] = []
        for panel in row:
            if sum(each["width"] for each in line) + panel["width"] > _COLUMNS:
                lines.append((title, line))
                line = []
            line.append(panel)
        lines.append((title, line))
    heights = [0.4 if line[0]["is_stat"] else 1.0 for _, line in lines]
    figure = plt.figure(figsize=(13, 1.4 + 2.9 * sum(heights)), facecolor="white")
    grid = GridSpec(
        len(lines),
        _COLUMNS,
        figure=figure,
        height_ratios=heights,
        hspace=0.6,
        wspace=5,
        left=0.065,
        right=0.985,
        top=1 - 1.05 / figure.get_figheight(),
        bottom=0.7 / figure.get_figheight(),
    )
    figure.text(
        0.02, 1 - 0.3 / figure.get_figheight(), board["title"], fontsize=15, weight="bold", va="center"
    )
    told = ""
    for number, (title, line) in enumerate(lines):
        left = 0
        for panel in line:
            axes = figure.add_subplot(grid[number, left : left + panel["width"]])
            left += panel["width"]
            if panel["is_stat"]:
                draw_stat(axes, panel)
            else:
                draw_series(axes, panel, seconds)
            if title != told:
                top = axes.get_position().y1 + 0.34 / figure.get_figheight()
                figure.text(0.02, top, title, fontsize=10, color="#5a5a5a", va="center", style="italic")
                told = title
    figure.savefig(path, dpi=100)
    plt.close(figure)
    # A few colours are enough, and a quarter of the size.
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Draw all."""
    answers = json.loads((ROOT / "build/dashboards.json").read_text())
    PICTURES.mkdir(exist_ok=True)
    for name, board in answers["boards"].items():
        draw(board, answers["seconds"], PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
