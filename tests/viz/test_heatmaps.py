"""Heatmaps: size of the PNG files, shade and label of each cell, errors."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.image import imread

from tfm_jax import viz
from tfm_jax.viz import _fonts, heatmaps

SOURCE, TARGET = ["a", "b", " ", "$x$"], ["<s>", "é", "\n"]


def weights(*shape):
    x = np.random.default_rng(0).uniform(size=shape)
    return x / x.sum(-1, keepdims=True)


def size_of(path):
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    height, width, channels = imread(path).shape
    assert channels == 4
    return width, height


@pytest.fixture
def figures(monkeypatch):
    """The saved figures."""
    saved = []
    monkeypatch.setattr(heatmaps, "save", lambda figure, path: saved.append(figure))
    return saved


def test_attention_map_writes_a_png_and_creates_directories(tmp_path):
    path = tmp_path / "new" / "folder" / "map.png"
    assert viz.attention_map(weights(3, 4), SOURCE, TARGET, path, title="cross $1") is None
    width, height = size_of(path)
    assert 300 < width < 1000 and 300 < height < 1000


def test_each_head_has_a_panel(tmp_path):
    sizes = []
    for n in (1, 4, 6):
        viz.attention_map(weights(n, 3, 4), SOURCE, TARGET, tmp_path / "map.png")
        sizes.append(size_of(tmp_path / "map.png"))
    assert sizes[0][0] < sizes[2][0] < sizes[1][0]  # one, three and four columns
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]  # one, one and two rows


def test_the_size_for_long_sequences_is_limited(tmp_path):
    viz.attention_map(weights(200, 150), ["s"] * 150, ["t"] * 200, tmp_path / "map.png")
    assert max(size_of(tmp_path / "map.png")) < 2500


def test_rows_are_targets_and_columns_sources(figures):
    heads = weights(2, 3, 4)
    viz.attention_map(heads, SOURCE, TARGET, "unused")
    panels = [axes for axes in figures[0].axes if axes.get_images()]
    assert [p.get_title() for p in panels] == ["head 0", "head 1"]
    for panel, head in zip(panels, heads, strict=True):
        np.testing.assert_allclose(panel.get_images()[0].get_array(), head, rtol=1e-6)
        assert [t.get_text() for t in panel.get_xticklabels()] == ["a", "b", "␣", "$x$"]
        bottom, top = panel.get_ylim()
        assert bottom > top
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["<s>", "é", r"\n"]
    assert not panels[1].get_yticklabels()


def test_every_column_of_an_incomplete_grid_has_labels(figures):
    viz.attention_map(weights(5, 3, 4), SOURCE, TARGET, "unused")
    panels = [axes for axes in figures[0].axes if axes.get_images()]
    assert [bool(p.get_xticklabels()) for p in panels] == [False, False, True, True, True]


def test_bfloat16_arrays_are_drawn(tmp_path):
    viz.attention_map(jnp.asarray(weights(3, 4), jnp.bfloat16), SOURCE, TARGET, tmp_path / "map.png")
    size_of(tmp_path / "map.png")


def test_missing_glyphs_return_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(_fonts, "_installed", lambda: iter(()))
    path = tmp_path / "map.png"
    note = viz.attention_map(weights(3, 4), list("5月7日"), TARGET, path, title="日")
    assert "(日月)" in note and "fonts-noto-cjk" in note
    size_of(path)
    assert "fonts-noto-cjk" in viz.confusion_matrix(np.eye(2, dtype=int), ["月", "日"], path)


@pytest.mark.parametrize(
    "shape, misfit",
    [
        ((4, 3), "weights has T = 4, not 3"),
        ((3, 5), "weights has S = 5, not 4"),
        ((2, 4, 3), "weights has T = 4, not 3"),
        ((2, 2, 3, 4), "weights has rank 4, not 3"),
        ((4,), "weights has rank 1, not 2"),
        ((0, 3, 4), r"got weights \[0, 3, 4\]; wanted no axis of size 0"),
    ],
)
def test_weights_that_do_not_fit_the_labels_are_an_error(shape, misfit, tmp_path):
    with pytest.raises(ValueError, match=f"attention_map: got weights.*{misfit}" if shape[0] else misfit):
        viz.attention_map(np.zeros(shape), SOURCE, TARGET, tmp_path / "map.png")
    assert not (tmp_path / "map.png").exists()


def test_weights_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        viz.attention_map(np.full((3, 4), np.nan), SOURCE, TARGET, tmp_path / "map.png")


def test_confusion_matrix_shows_counts_names_and_accuracy(figures):
    matrix = np.asarray([[8, 2, 0], [0, 9, 0], [1, 0, 0]])
    assert viz.confusion_matrix(matrix, ["x", "y", "z"], "unused", title="test") is None
    panel = figures[0].axes[0]
    texts = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in panel.texts}
    assert texts == {(0, 0): "8", (0, 1): "2", (1, 1): "9", (2, 0): "1"}
    assert [t.get_text() for t in panel.get_yticklabels()] == ["x", "y", "z"]
    assert figures[0].get_suptitle() == "test: 17 of 20 correct, 85.00%"
    red, green, blue = np.moveaxis(np.asarray(panel.get_images()[0].get_array(), float), -1, 0)
    assert blue[0, 0] > red[0, 0] and red[0, 1] > blue[0, 1]  # correct in blue, errors in orange
    assert red[0, 2] == green[0, 2] == blue[0, 2] == 1  # zero in white
    assert blue[0, 1] < blue[2, 0]  # the more errors, the darker


@pytest.mark.parametrize("classes", [1, 10, 40])
def test_confusion_matrix_writes_a_png(classes, tmp_path):
    path = tmp_path / "matrix.png"
    viz.confusion_matrix(np.eye(classes, dtype=np.int64) * 3, [str(i) for i in range(classes)], path)
    width, height = size_of(path)
    assert 400 < width < 2000 and abs(width - height) < 5


@pytest.mark.parametrize("worst", [5, 6, 7, 12, 41])
def test_shades_are_at_most_1(worst):
    shade = heatmaps._confusion_shade(np.array([[3, worst], [1, 2]]))
    assert shade.max() == shade[0, 1] == 1  # 0.2 + 0.8 * 6 / 6 is above 1


def test_an_empty_confusion_matrix_has_no_accuracy(figures):
    viz.confusion_matrix(np.zeros((2, 2), int), ["a", "b"], "unused")
    assert figures[0].get_suptitle() == "0 of 0 correct"


def test_confusion_matrix_errors(tmp_path):
    path = tmp_path / "matrix.png"
    with pytest.raises(ValueError, match=r"confusion_matrix: got matrix int64\[2, 3\]; .*has C = 3, not 2"):
        viz.confusion_matrix(np.zeros((2, 3), int), ["a", "b"], path)
    with pytest.raises(ValueError, match=r"has C = 2, not 3\. C is the number of class names"):
        viz.confusion_matrix(np.zeros((2, 2), int), ["a", "b", "c"], path)
    with pytest.raises(ValueError, match=r"got matrix float64.*Pass counts"):
        viz.confusion_matrix(np.eye(2), ["a", "b"], path)
    with pytest.raises(ValueError, match="got a count of -1; wanted counts, at least 0"):
        viz.confusion_matrix(-np.eye(2, dtype=int), ["a", "b"], path)
    with pytest.raises(ValueError, match="confusion_matrix: got no class names; wanted at least one"):
        viz.confusion_matrix(np.zeros((0, 0), int), [], path)


def test_pyplot_has_no_open_figure(tmp_path):
    import matplotlib.pyplot as plt

    viz.attention_map(weights(3, 4), SOURCE, TARGET, tmp_path / "map.png")
    assert plt.get_fignums() == []
