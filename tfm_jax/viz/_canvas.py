"""Figures without pyplot: no global state, no window, usable in any thread."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "blank", "save"]

# Colour-blind safe palette: Okabe & Ito 2008, "Color Universal Design".
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
DPI = 150


def blank(width: float, height: float) -> "Figure":
    """Makes an empty figure with an Agg canvas.

    Args:
      width, height: in inches, at 150 pixels per inch.

    Returns:
      A `matplotlib.figure.Figure` with automatic layout.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "tfm_jax.viz: got no matplotlib; wanted it. pip install 'tfm_jax[experiments]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, whatever the suffix of the path.

    Args:
      figure: from `blank`.
      path: the file. It is replaced; missing parent directories are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
