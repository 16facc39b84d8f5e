"""Images into what a model reads: scaled and normalized as its file says, resized as Pillow does."""

import json

import jax
import numpy as np
import pytest

from tfm_jax import pretrained

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), np.uint8)
SETTINGS = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 7, "width": 9},
}


def read(directory, **settings):
    (directory / "preprocessor_config.json").write_text(json.dumps(SETTINGS | settings))
    return pretrained.load_image_processor(directory)


def test_images_are_scaled_and_normalized(tmp_path):
    got = jax.jit(read(tmp_path))(IMAGES)
    assert got.dtype == np.float32
    wanted = (IMAGES / 255 - np.array(SETTINGS["image_mean"])) / np.array(SETTINGS["image_std"])
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path)(IMAGES[0]), wanted[0], rtol=1e-5, atol=1e-6)


def test_steps_that_are_left_out(tmp_path):
    plain = read(tmp_path, do_normalize=False, do_resize=False, do_center_crop=None, crop_size={"height": 3})
    np.testing.assert_allclose(plain(IMAGES), IMAGES / 255, rtol=1e-6)
    raw = read(tmp_path, do_rescale=False, image_mean=[1.0, 2.0, 3.0], image_std=[2.0, 2.0, 4.0])
    np.testing.assert_allclose(raw(IMAGES), (IMAGES - np.arange(1.0, 4.0)) / [2, 2, 4], rtol=1e-6)


def test_images_of_another_size_are_resized(tmp_path):
    flat = np.full((1, 20, 11, 3), 77, np.uint8)
    got = read(tmp_path, size=8, do_normalize=False, do_rescale=False)(flat)
    assert got.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(got, 77)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"do_center_crop": True}, "do_center_crop=True is not supported"),
        ({"size": {"shortest_edge": 224}}, "size must say height and width, got"),
        ({"resample": 5}, "resample=5 is not supported"),
        ({"image_mean": 0.5}, "preprocessor_config.json: "),
        ({"image_processor_type": "DeiTImageProcessor"}, "image_processor_type='DeiTImageProcessor' is not"),
        ({"image_processor_type": "CLIPImageProcessorFast"}, "only 'ViTImageProcessor'"),
        ({"feature_extractor_type": "CLIPFeatureExtractor"}, "feature_extractor_type='CLIPFeatureExtractor'"),
    ],
)
def test_a_recipe_that_is_not_ours(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **settings)


@pytest.mark.parametrize("images", [IMAGES / 255, IMAGES[..., :1], IMAGES[0, 0]])
def test_what_is_no_image(tmp_path, images):
    with pytest.raises(ValueError, match=r"images must be uint8 \[..., H, W, C\] with C = 3, got"):
        read(tmp_path)(images)


def test_without_a_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no preprocessor_config\.json"):
        pretrained.load_image_processor(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("resample", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(7, 9), (4, 5), (16, 12)])
def test_as_the_processor_of_transformers(tmp_path, resample, size):
    pytest.importorskip("transformers")
    pytest.importorskip("PIL")
    vit = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    settings = {"size": {"height": size[0], "width": size[1]}, "resample": resample}
    wanted = vit.ViTImageProcessorPil(**(SETTINGS | settings))(list(IMAGES), return_tensors="np")
    got = read(tmp_path, **settings)(IMAGES)
    off = np.abs(np.asarray(got) - wanted["pixel_values"].transpose(0, 2, 3, 1))
    steps = off * np.array(SETTINGS["image_std"]) * 255
    assert steps.max() < (1e-3 if size == (7, 9) else 1.001) and steps.mean() < 0.1
