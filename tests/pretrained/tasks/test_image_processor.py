"""Image processors: a preprocessor_config.json is followed as in transformers, or is an error by key."""

import itertools
import json
import math

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


def write(directory, settings):
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return pretrained.load_image_processor(directory)


def read(directory, **settings):
    return write(directory, SETTINGS | settings)


def test_images_are_scaled_and_normalized(tmp_path):
    got = jax.jit(read(tmp_path))(IMAGES)
    assert got.dtype == np.float32
    wanted = (IMAGES / 255 - np.array(SETTINGS["image_mean"])) / np.array(SETTINGS["image_std"])
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path)(IMAGES[0]), wanted[0], rtol=1e-5, atol=1e-6)


def test_steps_can_be_disabled(tmp_path):
    plain = read(tmp_path, do_normalize=False, do_resize=False, do_center_crop=None, crop_size={"height": 3})
    np.testing.assert_allclose(plain(IMAGES), IMAGES / 255, rtol=1e-6)
    raw = read(tmp_path, do_rescale=False, image_mean=[1.0, 2.0, 3.0], image_std=[2.0, 2.0, 4.0])
    np.testing.assert_allclose(raw(IMAGES), (IMAGES - np.arange(1.0, 4.0)) / [2, 2, 4], rtol=1e-6)
    unused = read(tmp_path, do_normalize=False, image_std=[0.0, 1.0, 1.0])
    np.testing.assert_allclose(unused(IMAGES), IMAGES / 255, rtol=1e-6)


PLAIN = {"do_normalize": False, "do_rescale": False}


def test_images_of_another_size_are_resized(tmp_path):
    flat = np.full((1, 20, 11, 3), 77, np.uint8)
    for size, shape in (
        (8, (8, 8)),
        ([8, 5], (8, 5)),
        ({"height": 8, "width": 5}, (8, 5)),
        ({"shortest_edge": 5}, (9, 5)),
    ):
        got = read(tmp_path, size=size, **PLAIN)(flat)
        assert got.shape == (1, *shape, 3)
        np.testing.assert_array_equal(got, 77)


def test_center_crop_and_padding(tmp_path):
    def crop(size):
        return read(tmp_path, do_resize=False, do_center_crop=True, crop_size=size, **PLAIN)(IMAGES)

    np.testing.assert_array_equal(crop({"height": 4, "width": 5}), IMAGES[:, 1:5, 2:7])
    np.testing.assert_array_equal(crop(10)[:, 2:9, 1:10], IMAGES)
    assert np.asarray(crop(10)).sum() == IMAGES.sum()


def test_defaults_are_those_of_the_processor_class(tmp_path):
    make, half = pretrained.ImageProcessor, (0.5, 0.5, 0.5)
    assert write(tmp_path, {}) == make((224, 224), mean=half, std=half)
    deit = make((256, 256), mean=half, std=half, method="cubic", crop=(224, 224))
    for name in ("DeiTImageProcessor", "DeiTImageProcessorFast"):
        assert write(tmp_path, {"image_processor_type": name}) == deit
    assert write(tmp_path, {"feature_extractor_type": "DeiTFeatureExtractor"}) == deit
    clip = write(tmp_path, {"image_processor_type": "CLIPImageProcessor", "size": 20})
    assert (clip.size, clip.crop, clip.mean[0]) == (20, (224, 224), 0.48145466)


def test_unknown_keys_are_logged_in_one_line(tmp_path, caplog):
    assert read(tmp_path, do_convert_rgb=True) == read(tmp_path) and not caplog.records
    read(tmp_path, a_new_way=3, another=[])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(": a_new_way, another") and str(tmp_path) in line


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"image_processor_type": "ConvNextImageProcessor"},
            "got image_processor_type='ConvNextImageProcessor'; wanted one of ViTImageProcessor",
        ),
        ({"image_processor_type": 3}, "image_processor_type=3; wanted one of ViTImageProc"),
        ({"do_center_crop": True}, "got do_center_crop=True without a crop_size"),
        (
            {"do_center_crop": True, "crop_size": {"shortest_edge": 3}},
            "crop_size={'shortest_edge': 3}; wanted",
        ),
        ({"do_pad": True}, "got do_pad=True; wanted False, the only supported value"),
        ({"do_resize": "yes"}, "do_resize='yes'; wanted true or false"),
        ({"size": {"longest_edge": 224}}, "size={'longest_edge': 224}; wanted"),
        ({"size": {"shortest_edge": 22, "longest_edge": 33}}, "got size=.*; wanted {"),
        ({"size": 0}, "size=0; wanted integers of at least 1"),
        ({"size": [8, 8, 3]}, "wanted integers of at least 1"),
        ({"size": {"height": 2.5, "width": True}}, "wanted integers of at least 1"),
        ({"size": "large"}, "size='large'; wanted integers of at least 1"),
        ({"resample": 6}, "got resample=6; wanted one of"),
        ({"resample": [2]}, r"got resample=\[2\]; wanted one of"),
        ({"rescale_factor": 0}, "rescale_factor=0; wanted a finite number above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255'; wanted a finite number above 0"),
        ({"image_mean": [0.5, 0.5]}, "image_std=.*; wanted a finite number for each channel"),
        ({"image_mean": [0.5, "0.5", 0.5]}, "image_mean=.*; wanted a finite number for each channel"),
        ({"image_mean": math.nan}, "image_mean=nan; wanted a finite number for each channel"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std=\[0.5, 0.0, 0.5\]; wanted numbers above 0"),
        ({"image_std": 0}, "image_std=0; wanted numbers above 0"),
    ],
)
def test_unsupported_settings_are_errors(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, **settings)
    assert str(error.value).startswith(str(tmp_path / "preprocessor_config.json"))


@pytest.mark.parametrize(
    "options",
    [
        {"size": (8, 0)},
        {"size": 2.5},
        {"crop": 8},
        {"scale": math.inf},
        {"scale": 0},
        {"mean": 0.5},
        {"mean": (0.1, math.nan, 0.1)},
        {"std": (0.0, 1.0, 1.0)},
        {"std": (1.0, 1.0)},
        {"method": "bicubic"},
    ],
)
def test_invalid_arguments_are_errors(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"ImageProcessor: got {name}=.*; wanted "):
        pretrained.ImageProcessor(**options)


@pytest.mark.parametrize("images", [IMAGES / 255, IMAGES[..., :1], IMAGES[0, 0]])
def test_invalid_images_are_errors(tmp_path, images):
    with pytest.raises(ValueError, match=r"got images=.*; wanted uint8 \[..., H, W, C\] with C = 3"):
        read(tmp_path)(images)
    with pytest.raises(ValueError, match=r"got images=uint8\[2, 0, 9, 3\]; wanted at least one pixel"):
        read(tmp_path)(IMAGES[:, :0])


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no preprocessor_config\.json; wanted"):
        pretrained.load_image_processor(tmp_path)


def by_transformers(directory, kind, images):
    """The pixels [B, height, width, C] of transformers, for the file in a directory."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("PIL", minversion="13")
    found = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(directory)
    values = found(list(images), input_data_format="channels_last", return_tensors="np")["pixel_values"]
    return values.transpose(0, 2, 3, 1)


@pytest.mark.parity
@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(7, 9), (4, 5), (16, 12)])
def test_pixels_equal_those_of_transformers(tmp_path, resample, size):
    got = read(tmp_path, size={"height": size[0], "width": size[1]}, resample=resample)(IMAGES)
    np.testing.assert_allclose(got, by_transformers(tmp_path, "ViT", IMAGES), atol=2e-6)


SIZES = [5, 12, [6, 4], {"height": 5, "width": 11}, {"shortest_edge": 6}, {"longest_edge": 6}]
SIZES += [{"max_height": 5, "max_width": 6}, {"shortest_edge": 5, "longest_edge": 6}, "5", 0, None]
NUMBERS = [0.25, 0, 1, [0.1, 0.2, 0.7], [0.3], "x", None]
FLAGS = [True, False, None, 1]
CHANGES = {
    "size": SIZES,
    "crop_size": SIZES,
    "pad_size": SIZES,
    "image_mean": NUMBERS,
    "image_std": NUMBERS,
    "rescale_factor": [0.5, 1, 0, -1, "x", None],
    "resample": [0, 1, 2, 3, 4, 5, 6, 9, "bilinear", None],
    "data_format": ["channels_first", "channels_last", None],
    "input_data_format": ["channels_last", None],
    "image_seq_length": [3, None],
    "device": ["cpu", None],
    "return_tensors": ["np", None],
    "a_new_way": [True, "x"],
}


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "CLIP"])
def test_each_key_is_followed_or_an_error(tmp_path, kind, capsys):
    """A key of transformers that is missing here is a flag, or new and needs a look."""
    keys = pytest.importorskip("transformers.processing_utils").ImagesKwargs.__annotations__
    changes = {name: FLAGS for name in keys if name.startswith(("do_", "disable_"))} | CHANGES
    assert keys.keys() - changes.keys() == {"default_to_square"}
    changes["default_to_square"] = [True, False, None]
    base = {"image_processor_type": f"{kind}ImageProcessor", "size": 8, "crop_size": 6}
    counts = {"same": 0, "error": 0, "error in transformers": 0}
    for name, value in [(name, value) for name, values in changes.items() for value in values]:
        settings = base | {name: value}
        try:
            processor = write(tmp_path, settings)
        except ValueError as error:
            assert name in str(error) or "image_" in str(error), settings
            counts["error"] += 1
            continue
        try:
            values = by_transformers(tmp_path, kind, IMAGES)
        except ValueError:  # an invalid size that is not used
            assert name in ("crop_size", "pad_size"), settings
            counts["error in transformers"] += 1
            continue
        np.testing.assert_allclose(processor(IMAGES), values, atol=2e-6, err_msg=f"{settings}")
        counts["same"] += 1
    with capsys.disabled():
        print(f" {kind}: {counts}", end="")
    assert counts["same"] > counts["error"]


@pytest.mark.parity
@pytest.mark.parametrize("height, width", [*itertools.product([5, 8, 21], [6, 17])])
def test_shorter_side_and_center_crop_of_any_shape(tmp_path, height, width):
    images = np.random.default_rng(1).integers(0, 256, (1, height, width, 3), np.uint8)
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 9}}
    for crop in (8, [4, 13]):
        got = write(tmp_path, settings | {"crop_size": crop})(images)
        np.testing.assert_allclose(got, by_transformers(tmp_path, "CLIP", images), atol=2e-6)
