"""A blank figure and the way to a file, without pyplot: no global state, no window, any thread."""

import os
from pathlib import Path
from typing import Any

__all__ = ["BLUE", "GREY", "ORANGE", "blank", "save"]

# Of the palette of Okabe & Ito 2008, "Color Universal Design": told apart with every kind of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
DPI = 150


def blank(width: float, height: float) -> Any:
    """Makes an empty figure with an Agg canvas.

    Args:
      width, height: in inches, of 150 pixels each.

    Returns:
      A `matplotlib.figure.Figure` that lays itself out.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("tfm_jax.viz draws with matplotlib: pip install 'tfm_jax[experiments]'") from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes `figure` to `path` as a PNG, whatever the name's ending, and makes the folders above it.

    Args:
      figure: from `blank`.
      path: the file, which is replaced.

    Returns:
      None.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
