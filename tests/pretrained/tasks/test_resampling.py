"""Image resizing equals Pillow 13 bit for bit."""

import importlib.metadata

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfm_jax.pretrained.tasks.resampling import METHODS, resize

IMAGE = (np.arange(42).reshape(7, 6, 1) * 37 % 256).astype(np.uint8)
# From Pillow 13: 7 x 6 to 3 x 5, which filters along the height first.
WANTED = {
    "nearest": [[222, 3, 77, 114, 151], [154, 191, 9, 46, 83], [86, 123, 197, 234, 15]],
    "box": [[111, 20, 76, 131, 168], [154, 191, 119, 46, 83], [69, 106, 162, 217, 126]],
    "linear": [[120, 57, 64, 106, 148], [159, 168, 119, 69, 78], [89, 131, 174, 180, 117]],
    "hamming": [[127, 45, 68, 115, 158], [156, 183, 119, 54, 81], [79, 122, 170, 192, 110]],
    "cubic": [[123, 48, 55, 110, 157], [167, 182, 119, 55, 70], [80, 127, 182, 189, 114]],
    "lanczos3": [[124, 44, 46, 110, 164], [174, 186, 118, 51, 63], [73, 127, 191, 193, 113]],
}
PILLOW = {"nearest": 0, "lanczos3": 1, "linear": 2, "cubic": 3, "box": 4, "hamming": 5}


@pytest.mark.parametrize("method", METHODS)
def test_resizing_equals_stored_results_of_pillow(method):
    compiled = jax.jit(resize, static_argnums=(1, 2))(IMAGE, (3, 5), method)
    for got in (compiled, resize(IMAGE, (3, 5), method), resize(jax.numpy.asarray(IMAGE), (3, 5), method)):
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got[..., 0], WANTED[method])


def test_leading_axes_and_unchanged_sizes():
    images = np.stack([IMAGE, 255 - IMAGE])[:, None]
    got = resize(images, (7, 4), "cubic")
    assert got.shape == (2, 1, 7, 4, 1)
    np.testing.assert_array_equal(got[1, 0], resize(images[1, 0], (7, 4), "cubic"))
    np.testing.assert_array_equal(resize(IMAGE, (7, 6), "lanczos3"), IMAGE)


PIXELS = st.integers(0, 255) | st.sampled_from([0, 255])
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))
IMAGES = st.tuples(SIDES, st.sampled_from([1, 3])).flatmap(
    lambda drawn: arrays.arrays(np.uint8, (*drawn[0], drawn[1]), elements=PIXELS, fill=st.nothing())
)


def by_pillow(image, size, method):
    Image = pytest.importorskip("PIL.Image")
    if int(importlib.metadata.version("pillow").split(".")[0]) < 13:
        pytest.skip("older versions of Pillow always filter along the width first")
    found = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(found.resize(size[::-1], PILLOW[method])).reshape(*size, image.shape[-1])


@pytest.mark.parity
@settings(max_examples=20)
@given(IMAGES, SIDES, st.sampled_from(METHODS))
def test_random_images_equal_pillow(image, size, method):
    wanted = by_pillow(image, size, method)
    np.testing.assert_array_equal(resize(image, size, method), wanted)
    np.testing.assert_array_equal(resize(jax.numpy.asarray(image), size, method), wanted)


@pytest.mark.parity
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape, size",
    [
        ((31, 20), (11, 9)),  # 20 less is at most twice 11 less: the width first
        ((32, 20), (9, 9)),  # 23 is more than 22: the height first
        ((31, 20), (9, 9)),  # 22 is not more: the width first
        ((20, 9), (19, 30)),
        ((9, 20), (30, 19)),
        ((300, 3), (7, 2)),
        ((480, 640), (224, 224)),
    ],
)
def test_the_order_of_the_passes_is_that_of_pillow(shape, size, method):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, size, method), by_pillow(image, size, method))
