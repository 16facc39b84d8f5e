"""Heatmaps: attention weights and confusion matrices."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfm_jax.checks import check_shapes
from tfm_jax.types import Array
from tfm_jax.viz._canvas import BLUE, GREY, ORANGE, blank, save
from tfm_jax.viz._fonts import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

__all__ = ["attention_map", "confusion_matrix"]

CELL = 0.22  # inches; 8 pt text fits
SMALL, NORMAL, LARGE = 7, 8, 10  # pt


def attention_map(
    weights: Array | np.ndarray,
    source_labels: Sequence[str],
    target_labels: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> str | None:
    """Draws attention weights as a heatmap per head: rows are target tokens, columns source tokens.

    Args:
      weights: [T, S] or [N, T, S] float, finite. Darker is larger.
      source_labels: S strings, such as the source tokens. White space is made visible.
      target_labels: T strings.
      path: the PNG file. It is replaced; missing parent directories are created.
      title: of the figure, or "".

    Returns:
      None, or a note to print: which characters no installed font has (they are drawn as code points such as
      U+4E2D), and which package to install.

    Raises:
      ValueError: the shape of `weights` does not fit the labels, or a weight is not finite.
      ImportError: matplotlib is not installed.
    """
    weights = np.asarray(weights, np.float32)
    sizes = {"T": len(target_labels), "S": len(source_labels)}
    check_shapes(
        "attention_map",
        weights=(weights, "T S" if weights.ndim < 3 else "N T S"),
        sizes=sizes,
        fix="T and S are the numbers of target and source labels. Take one example, without its padding.",
    )
    if not weights.size:
        raise ValueError(
            f"attention_map: got weights {list(weights.shape)}; wanted no axis of size 0. "
            "Pass at least one head and one token."
        )
    if not np.isfinite(weights).all():
        raise ValueError("attention_map: got weights that are not finite; wanted those after the softmax.")
    heads = weights.reshape(-1, *sizes.values())
    (title, *labels), families, note = drawable([title, *source_labels, *target_labels])
    source, target = labels[: sizes["S"]], labels[sizes["S"] :]
    _draw_heads(heads, source, target, title, families, path)
    return note


def _draw_heads(
    heads: np.ndarray,  # [N, T, S]
    source: list[str],
    target: list[str],
    title: str,
    families: list[str],
    path: str | os.PathLike[str],
) -> None:
    n, rows = len(heads), math.ceil(len(heads) / 4)
    columns = math.ceil(n / rows)
    largest = 8.0 if n == 1 else 3.6
    width, height = (min(max(size * CELL, 1.8), largest) for size in reversed(heads.shape[1:]))
    margins = {"x": min(max(map(len, source)), 20) * 0.08, "y": min(max(map(len, target)), 20) * 0.08}
    figure = blank(columns * (width + 0.15) + 1.5 + margins["y"], rows * (height + 0.25) + 0.9 + margins["x"])
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for i, panel in enumerate(panels):
        if i >= n:
            panel.remove()
            continue
        image = panel.imshow(heads[i], cmap="Blues", vmin=0, vmax=max(heads.max(), 1e-6), aspect="auto")
        if n > 1:
            panel.set_title(f"head {i}", fontsize=NORMAL, color=GREY)
        _label_axis(panel.xaxis, source if i + columns >= n else None, width, families)
        _label_axis(panel.yaxis, target if i % columns == 0 else None, height, families)
        _style(panel)
    figure.supxlabel("source", fontsize=NORMAL, color=GREY)
    figure.supylabel("target", fontsize=NORMAL, color=GREY)
    bar = figure.colorbar(image, ax=figure.axes, fraction=0.05, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=SMALL, color=GREY, labelcolor=GREY)
    bar.outline.set_visible(False)
    _set_title(figure, title, families)
    save(figure, path)


def confusion_matrix(
    matrix: Array | np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str], *, title: str = ""
) -> str | None:
    """Draws a confusion matrix: correct predictions in blue, errors in orange.

    Args:
      matrix: [C, C] integer counts; rows are true classes, columns predicted classes.
      class_names: C strings.
      path: the PNG file. It is replaced; missing parent directories are created.
      title: of the figure; the accuracy is added to it.

    Returns:
      None, or a note on missing glyphs, as from `attention_map`.

    Raises:
      ValueError: `matrix` is not [C, C] for C class names, or does not hold counts.
      ImportError: matplotlib is not installed.
    """
    matrix, size = np.asarray(matrix), len(class_names)
    check_shapes(
        "confusion_matrix",
        matrix=(matrix, "C C", "int"),
        sizes={"C": size},
        fix={"dtype": "Pass counts, without normalizing them.", "C": "C is the number of class names."},
    )
    if size == 0:
        raise ValueError("confusion_matrix: got no class names; wanted at least one. Pass them.")
    if (matrix < 0).any():
        raise ValueError(f"confusion_matrix: got a count of {matrix.min()}; wanted counts, at least 0.")
    (title, *names), families, note = drawable([title, *class_names])
    total, correct = int(matrix.sum()), int(np.trace(matrix))
    inches = min(max(size * 0.42, 2.5), 9.0)
    figure = blank(inches + 1.2, inches + 1.2)
    panel = figure.subplots()
    panel.imshow(_confusion_colours(matrix))
    if size <= 30:
        shade = _confusion_shade(matrix)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shade[row, column] > 0.55 else "black"
            count = str(matrix[row, column])
            panel.text(column, row, count, ha="center", va="center", fontsize=NORMAL, color=colour)
    _label_axis(panel.xaxis, names, inches, families)
    _label_axis(panel.yaxis, names, inches, families)
    _style(panel)
    panel.set_xlabel("predicted class", fontsize=NORMAL, color=GREY)
    panel.set_ylabel("true class", fontsize=NORMAL, color=GREY)
    accuracy = f"{correct} of {total} correct" + (f", {correct / total:.2%}" if total else "")
    _set_title(figure, f"{title}: {accuracy}" if title else accuracy, families)
    save(figure, path)
    return note


def _confusion_shade(matrix: np.ndarray) -> np.ndarray:
    """Darkness of each cell in [0, 1]: recall on the diagonal, else the count relative to the worst error."""
    diagonal = np.eye(len(matrix), dtype=bool)
    recall = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    errors = np.where(diagonal, 0, matrix)
    # From 0.2 up, so that a single error stays visible.
    relative = np.where(errors > 0, 0.2 + 0.8 * (errors / max(errors.max(), 5)), 0)
    return np.where(diagonal, recall, relative)


def _confusion_colours(matrix: np.ndarray) -> np.ndarray:
    from matplotlib.colors import to_rgb

    darkest = np.where(np.eye(len(matrix), dtype=bool)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    return 1 - _confusion_shade(matrix)[..., None] * (1 - darkest)


def _label_axis(axis: "XAxis | YAxis", labels: list[str] | None, inches: float, families: list[str]) -> None:
    """Labels the positions 0, 1, ... of an axis, or every k-th if space is short; None removes the ticks."""
    if labels is None:
        axis.set_ticks([])
        return
    step = math.ceil(len(labels) * 0.14 / inches)
    upright = axis.axis_name == "y" or max(map(len, labels)) <= 2
    axis.set_ticks(
        range(0, len(labels), step),
        labels[::step],
        fontsize=NORMAL if step == 1 else SMALL,
        fontfamily=families,
        rotation=0 if upright else 90,
        parse_math=False,
    )


def _style(panel: "Axes") -> None:
    panel.tick_params(length=0, pad=3)
    for spine in panel.spines.values():
        spine.set_color("#cccccc")


def _set_title(figure: "Figure", title: str, families: list[str]) -> None:
    if title:
        figure.suptitle(title, fontsize=LARGE, fontfamily=families, parse_math=False)
