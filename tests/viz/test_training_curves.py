"""Training curves: one panel per metric, with training and validation together."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.image import imread

from tfm_jax import viz
from tfm_jax.viz import training_curves

ROWS = [
    {"step": 10, "loss": 2.0, "accuracy": 0.1, "note": "warm-up", "done": False},
    {"step": 20, "loss": 1.0, "accuracy": float("nan")},
    {"step": 20, "validation/loss": 1.5, "validation/accuracy": 0.4, "validation/bleu": 3},
    {"step": 30, "loss": np.float32(0.5), "learning_rate": 1e-3},
]


@pytest.fixture
def panels(monkeypatch):
    """Draws rows; returns {title of a panel: {label of a line: its points}}."""

    def draw(rows, **kwargs):
        saved = []
        monkeypatch.setattr(training_curves, "save", lambda figure, path: saved.append(figure))
        viz.curves(rows, "unused", **kwargs)
        return {
            axes.get_title(loc="left"): {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
            for axes in saved[0].axes
        }

    return draw


def test_one_panel_per_metric_with_training_and_validation(panels):
    got = panels(ROWS)
    assert list(got) == ["loss", "accuracy", "bleu", "learning_rate"]
    assert got["loss"] == {"training 0.5": [[10, 2], [20, 1], [30, 0.5]], "validation 1.5": [[20, 1.5]]}
    assert got["accuracy"] == {"training 0.1": [[10, 0.1]], "validation 0.4": [[20, 0.4]]}
    assert got["bleu"] == {"validation 3": [[20, 3]]}
    assert got["learning_rate"] == {"training 0.001": [[30, 1e-3]]}


def test_rows_are_sorted_by_step(panels):
    assert panels(ROWS[::-1])["loss"]["training 0.5"] == [[10, 2], [20, 1], [30, 0.5]]


def test_the_image_grows_with_the_number_of_metrics(tmp_path):
    shapes = []
    for n in (1, 3, 4):
        path = tmp_path / "new" / "curves.png"
        viz.curves([{"step": s} | {f"m{i}": s * i for i in range(n)} for s in range(5)], path, title="run $5")
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        shapes.append(imread(path).shape[:2])
    (h1, w1), (h3, w3), (h4, w4) = shapes
    assert (w1, w3, w4) == (630, 1890, 1260) and h1 == h3 < h4


def test_a_loss_over_orders_of_magnitude_has_a_log_scale(monkeypatch):
    saved = []
    monkeypatch.setattr(training_curves, "save", lambda figure, path: saved.append(figure))
    viz.curves([{"step": 0, "loss": 5, "lr": 1e-9}, {"step": 1, "loss": 0.01, "lr": 1.0}], "unused")
    viz.curves([{"step": 0, "loss": 5}, {"step": 1, "loss": 0.0}], "unused")
    assert [axes.get_yscale() for figure in saved for axes in figure.axes] == ["log", "linear", "linear"]


def test_errors():
    with pytest.raises(ValueError, match='got a row without "step"'):
        viz.curves([{"loss": 1.0}], "unused")
    for rows in ([], [{"step": 1}], [{"step": 1, "loss": float("nan")}]):
        with pytest.raises(ValueError, match="got no metrics"):
            viz.curves(rows, "unused")
