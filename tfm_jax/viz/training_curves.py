"""Training curves: every metric over the steps."""

import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tfm_jax.viz._canvas import BLUE, GREY, ORANGE, blank, save

__all__ = ["curves"]

VALIDATION = "validation/"
if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]


def curves(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws each metric of a run over the steps, with training and validation in one panel.

    Args:
      rows: the rows of `metrics.jsonl`: each has "step" and some numbers by name. `validation/loss` goes into
        the panel of `loss`. A row need not have all metrics. Values that are not finite numbers are skipped.
      path: the PNG file. It is replaced; missing parent directories are created.
      title: of the figure, or "".

    Returns:
      None. The figure is in the file.

    Raises:
      ValueError: a row has no step, or no row has a metric.
      ImportError: matplotlib is not installed.
    """
    metrics = _collect(rows)
    if not metrics:
        raise ValueError('curves: got no metrics; wanted rows such as {"step": 10, "loss": 2.3}.')
    n_rows = math.ceil(len(metrics) / 3)
    columns = math.ceil(len(metrics) / n_rows)
    figure = blank(4.2 * columns, 2.8 * n_rows + 0.3 * bool(title))
    panels = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for panel, (name, lines) in zip(panels, metrics.items(), strict=False):
        _draw(panel, name, lines)
    for panel in panels[len(metrics) :]:
        panel.remove()
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)


def _collect(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """{metric: {"training": points, "validation": points}}, in order of first appearance."""
    metrics: dict[str, dict[str, Points]] = {}
    for row in rows:
        if "step" not in row:
            raise ValueError(f'curves: got a row without "step": {dict(row)}; wanted "step" in every row.')
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, numbers.Real):
                continue
            if math.isfinite(value):
                kind = "validation" if name.startswith(VALIDATION) else "training"
                lines = metrics.setdefault(name.removeprefix(VALIDATION), {})
                lines.setdefault(kind, []).append((row["step"], float(value)))
    return metrics


def _draw(panel: "Axes", name: str, lines: dict[str, Points]) -> None:
    for kind, colour in (("training", BLUE), ("validation", ORANGE)):
        if kind in lines:
            steps, values = zip(*sorted(lines[kind]), strict=True)
            few = len(steps) <= 30
            style = {"marker": "o", "markersize": 3} if few else {}
            panel.plot(steps, values, color=colour, linewidth=1.2, label=f"{kind} {values[-1]:.4g}", **style)
    values = [value for points in lines.values() for _, value in points]
    # On a linear scale, a loss that falls by orders of magnitude looks flat.
    if "loss" in name and 0 < min(values) < max(values) / 50:
        panel.set_yscale("log")
    panel.set_title(name, fontsize=9, loc="left", parse_math=False)
    panel.set_xlabel("step", fontsize=8, color=GREY)
    panel.legend(fontsize=7, frameon=False)
    panel.tick_params(labelsize=7, color=GREY, labelcolor=GREY)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
