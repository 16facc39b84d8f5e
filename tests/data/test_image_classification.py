import io

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfm_jax import data
from tfm_jax.data import image_classification

PIL = pytest.importorskip("PIL.Image")
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOR = np.stack([GREY, GREY + 1, GREY + 2], -1)


def examples_of(images, labels=None, features=None, **options):
    labels = list(range(len(images))) if labels is None else labels
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    return data.image_classification_examples(dataset, **options)


def png(array):
    file = io.BytesIO()
    PIL.fromarray(array).save(file, "png")
    return file.getvalue()


@given(hnp.arrays(np.uint8, (3, 2, 4, 1)), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_a_batch_is_scaled_to_one(images, labels):
    examples = data.ImageClassificationExamples(images, np.array(labels), 5)
    batch = examples.take(np.array([2, 0]))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "images": ((2, 2, 4, 1), "float32"),
        "labels": ((2,), "int32"),
        "weights": ((2,), "float32"),
    }
    np.testing.assert_allclose(batch["images"], images[[2, 0]] / 255, rtol=1e-6)
    assert batch["labels"].tolist() == [labels[2], labels[0]] and (batch["weights"] == 1).all()


@pytest.mark.parametrize("array", [GREY, COLOR], ids=["grey", "colour"])
@pytest.mark.parametrize("form", ["image", "bytes", "undecoded", "array", "stream"])
def test_all_forms_of_an_image_are_the_same(form, array):
    features = None
    images = {
        "image": [PIL.fromarray(array)] * 2,
        "bytes": [png(array)] * 2,
        "undecoded": [{"bytes": png(array), "path": "a.png"}] * 2,
        "array": [array.tolist()] * 2,
        "stream": [array.tolist()] * 2,
    }[form]
    if form == "image":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 3]}, features=features)
    dataset = dataset.to_iterable_dataset() if form == "stream" else dataset
    examples = data.image_classification_examples(dataset)
    expected = array.reshape(3, 4, -1)
    assert examples.classes == 2 and examples.labels.tolist() == [0, 1]  # the classes that occur, "0" and "3"
    np.testing.assert_allclose(examples.take(np.array([1]))["images"][0], expected / 255, rtol=1e-6)


def saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_source_of_image_files_follows_exif_orientation(orientation, kind, tmp_path):
    from PIL import ImageOps

    exif = PIL.Exif()
    exif[0x0112] = orientation
    content = saved(PIL.fromarray(COLOR.repeat(8, 0).repeat(8, 1)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(PIL.open(io.BytesIO(content))).convert("RGB"))
    assert expected.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"a.{kind}").write_bytes(content)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    forms = {
        "bytes": examples_of([content]),
        "stored": examples_of([{"bytes": content, "path": None}]),
        "column": examples_of([content], features=features),
        "files": data.image_classification_examples(data.load(str(tmp_path))),
        "stream": data.image_classification_examples(data.load(str(tmp_path), streaming=True)),
    }
    for form, examples in forms.items():
        np.testing.assert_array_equal(examples.images[0], expected, err_msg=form)


@pytest.mark.parity
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "PA", "La", "RGBa", "HSV"]
)
def test_every_8_bit_mode_is_read_as_pillow_converts_it(mode):
    kinds = {"P": "png", "CMYK": "jpeg", "YCbCr": "jpeg", "La": None, "RGBa": None, "PA": None, "HSV": None}
    image = PIL.fromarray(COLOR).convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode)
    image = image.convert(mode)
    if kind := kinds.get(mode, "png"):
        image = PIL.open(io.BytesIO(saved(image, kind)))
    grey = mode in ("1", "L", "LA", "La")
    plain = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(image.mode, image.mode)
    for channels, form in ((None, "L" if grey else "RGB"), (1, "L"), (3, "RGB")):
        array, is_file = image_classification._read(image, "row 0", None, channels)
        expected = np.asarray(image.convert(plain).convert(form))
        np.testing.assert_array_equal(array, expected[..., None] if form == "L" else expected)
        assert is_file and array.dtype == np.uint8


def test_a_palette_with_transparency_is_read_without_a_warning():
    image = PIL.fromarray(COLOR).quantize(4)
    content = saved(image, transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(examples_of([content]).images[0], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_modes_of_more_than_8_bits_are_errors(mode):
    image = PIL.new(mode, (2, 2))
    with pytest.raises(ValueError, match=f"got an image of mode {mode} in row 7; wanted at most 8 bits"):
        image_classification._read(image, "row 7", None, None)


def test_grey_and_color_images_in_one_data_set():
    both = [png(GREY), png(COLOR)]
    examples = examples_of(both)
    np.testing.assert_array_equal(examples.images, [np.stack([GREY] * 3, -1), COLOR])
    np.testing.assert_array_equal(examples_of(both[::-1]).images, examples.images[::-1])
    np.testing.assert_array_equal(
        examples_of(both, channels=3, size=(2, 5)).images, examples_of(both, size=(2, 5)).images
    )
    grey = examples_of(both, channels=1).images
    np.testing.assert_array_equal(grey[..., 0], [GREY, np.asarray(PIL.fromarray(COLOR).convert("L"))])
    assert examples_of([png(GREY)] * 2, channels=3).images.shape == (2, 3, 4, 3)


def test_floats_are_not_scaled():
    examples = examples_of([[[0.0, 0.25], [0.5, 1.0]]])
    assert examples.take(np.array([0]))["images"][0, ..., 0].tolist() == [[0.0, 0.25], [0.5, 1.0]]


def test_images_are_resized_and_converted_to_one_mode():
    images = [png(COLOR), png(np.zeros((5, 6, 4), np.uint8))]
    assert examples_of(images, size=(2, 7)).images.shape == (2, 2, 7, 3)


def test_arrays_are_not_resized():
    array = [[0.0, 0.25], [0.5, 1.0]]
    assert examples_of([array], size=(2, 2)).images.shape == (1, 2, 2, 1)
    with pytest.raises(
        ValueError, match=r"got an array of \[2, 2\] pixels in row 0 with size=\(2, 3\), which"
    ):
        examples_of([array], size=(2, 3))


def test_the_number_of_classes_comes_from_the_data_set():
    features = datasets.Features(
        {"image": datasets.Array2D((3, 4), "uint8"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    assert examples_of([GREY, GREY], features=features).classes == 3
    assert examples_of([GREY.tolist()] * 2, classes=7).classes == 7


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, -1, 10]), min_size=1, max_size=9))
def test_classes_are_those_that_occur(labels):
    names = [str(label) for label in sorted(set(labels))]
    for values in (labels, list(map(str, labels))):
        examples = examples_of([GREY.tolist()] * len(labels), values)
        assert examples.classes == len(names) and [names[i] for i in examples.labels] == list(
            map(str, labels)
        )
    others = examples_of([GREY.tolist()], labels[-1:], classes=names)
    assert others.classes == len(names) and others.labels[0] == examples.labels[-1]


def test_other_column_names():
    dataset = datasets.Dataset.from_dict({"img": [GREY.tolist()], "fine_label": [0]})
    with pytest.raises(
        ValueError, match=r"the columns 'img', 'fine_label'; wanted 'image', 'label'\. Choose"
    ):
        data.image_classification_examples(dataset)
    assert len(data.image_classification_examples(dataset, image="img", label="fine_label")) == 1


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([GREY.tolist(), GREY[:2].tolist()], {}, r"got an image of shape \[2, 4, 1\] in row 1"),
        ([[[0, 300]]], {}, "got values from 0 to 300 in row 0; wanted integers from 0 to 255"),
        ([[[0.0, 1.5]]], {}, "got values from 0.0 to 1.5 in row 0; wanted floats from 0 to 1.0"),
        ([[[0.0, float("nan")]]], {}, "got values from nan to nan in row 0; wanted floats"),
        ([[1, 2]], {}, r"got int64 \[2\] in row 0; wanted an image"),
        (["a.png"], {}, "got 'a.png' in row 0; wanted an image"),
        ([None], {}, "got None in row 0; wanted an image"),
        ([b"nonsense"], {}, "got bytes that Pillow does not know in row 0"),
        ([png(GREY.astype(np.uint16))], {}, "got an image of mode I;16 in row 0"),
        (
            [GREY.tolist()] * 3,
            {"classes": 2},
            "label_ids: got '2' in row 2 .* wanted one of the 2 classes .*'0', '1'",
        ),
        (
            [GREY.tolist()] * 2,
            {"labels": ["cat", "dog"], "classes": 2},
            "label_ids: got 'cat' in row 0 .* wanted one of",
        ),
        (
            [GREY.tolist()] * 2,
            {"labels": [0, None]},
            "got nothing in row 1 .*wanted a text or an integer as label",
        ),
        ([GREY.tolist()] * 2, {"labels": ["a", " "]}, "got ' ' in row 1"),
        ([png(GREY)[:50]], {}, "got a damaged or too large image file in row 0"),
        (
            [{"bytes": None, "path": "/no/where.png"}],
            {},
            r"got .*/no/where.png' for row 0 \(.*/no/where.png\)",
        ),
        ([GREY.tolist()], {"channels": 3}, "got an array of 1 channels in row 0 with channels=3"),
        ([png(GREY)], {"channels": 4}, r"got channels=4; wanted 1 \(grey\), 3 \(RGB\) or None"),
        ([], {}, "got an empty data set"),
    ],
)
def test_bad_rows_are_named(images, options, message):
    with pytest.raises(ValueError, match=message):
        examples_of(images, **options)


def test_a_bad_image_is_named_with_its_file(tmp_path):
    for name, content in (("a/0.png", png(GREY)), ("a/1.png", png(GREY[:2])), ("b/2.png", b"nonsense")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"does not know in row 2 \(.*/b/2\.png\)"):
        data.image_classification_examples(data.load(str(tmp_path)))
    (tmp_path / "b" / "2.png").write_bytes(png(GREY))
    with pytest.raises(ValueError, match=r"got an image of shape \[2, 4, 1\] in row 1 \(.*/a/1\.png\)"):
        data.image_classification_examples(data.load(str(tmp_path)))


def test_arrays_of_several_channels_are_not_converted():
    rows = datasets.IterableDataset.from_generator(
        lambda: ({"image": image, "label": 0} for image in (GREY, COLOR))
    )
    with pytest.raises(
        ValueError, match=r"shape \[3, 4, 3\] in row 1; wanted \[3, 4, 1\].* one number of channels"
    ):
        data.image_classification_examples(rows)


def test_shapes_that_do_not_match():
    for shape, labels, misfit in (
        ((2, 3, 4), 2, "images has rank 3, not 4"),
        ((2, 3, 4, 1), 3, "B = 3, not 2"),
    ):
        with pytest.raises(ValueError, match=f"ImageClassificationExamples: got images.*{misfit}"):
            data.ImageClassificationExamples(np.zeros(shape), np.zeros(labels, int), 2)


def test_labels_are_integers():
    with pytest.raises(ValueError, match="got label of float64; wanted integers"):
        data.ImageClassificationExamples(np.zeros((2, 3, 4, 1), np.uint8), np.array([0.0, 1.5]), 2)
