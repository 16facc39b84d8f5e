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
COLOUR = np.stack([GREY, GREY + 1, GREY + 2], -1)


def rows_of(images, labels=None, features=None, **options):
    labels = list(range(len(images))) if labels is None else labels
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    return data.image_classification_examples(dataset, **options)


def png(array):
    file = io.BytesIO()
    PIL.fromarray(array).save(file, "png")
    return file.getvalue()


@given(hnp.arrays(np.uint8, (3, 2, 4, 1)), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_the_contract(images, labels):
    rows = data.ImageClassificationExamples(images, np.array(labels), 5)
    batch = rows.take(np.array([2, 0]))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((2, 2, 4, 1), "float32"),
        "label": ((2,), "int32"),
        "weight": ((2,), "float32"),
    }
    np.testing.assert_allclose(batch["image"], images[[2, 0]] / 255, rtol=1e-6)
    assert batch["label"].tolist() == [labels[2], labels[0]] and (batch["weight"] == 1).all()


@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("form", ["picture", "bytes", "undecoded", "array", "stream"])
def test_all_forms_of_an_image_are_the_same(form, array):
    features = None
    images = {
        "picture": [PIL.fromarray(array)] * 2,
        "bytes": [png(array)] * 2,
        "undecoded": [{"bytes": png(array), "path": "a.png"}] * 2,
        "array": [array.tolist()] * 2,
        "stream": [array.tolist()] * 2,
    }[form]
    if form == "picture":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 3]}, features=features)
    dataset = dataset.to_iterable_dataset() if form == "stream" else dataset
    rows = data.image_classification_examples(dataset)
    expected = array.reshape(3, 4, -1)
    assert rows.classes == 2 and rows.labels.tolist() == [0, 1]  # those that occur: "0" and "3"
    np.testing.assert_allclose(rows.take(np.array([1]))["image"][0], expected / 255, rtol=1e-6)


def saved(picture, kind="png", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_wherever_they_come_from(orientation, kind, tmp_path):
    from PIL import ImageOps

    exif = PIL.Exif()
    exif[0x0112] = orientation
    content = saved(PIL.fromarray(COLOUR.repeat(8, 0).repeat(8, 1)), kind, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(PIL.open(io.BytesIO(content))).convert("RGB"))
    assert wanted.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"a.{kind}").write_bytes(content)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    forms = {
        "bytes": rows_of([content]),
        "stored": rows_of([{"bytes": content, "path": None}]),
        "column": rows_of([content], features=features),
        "files": data.image_classification_examples(data.load(str(tmp_path))),
        "stream": data.image_classification_examples(data.load(str(tmp_path), streaming=True)),
    }
    for form, rows in forms.items():
        np.testing.assert_array_equal(rows.images[0], wanted, err_msg=form)


@pytest.mark.parity
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "PA", "La", "RGBa", "HSV"]
)
def test_every_mode_of_8_bits_is_read_as_pillow_converts_it(mode):
    kinds = {"P": "png", "CMYK": "jpeg", "YCbCr": "jpeg", "La": None, "RGBa": None, "PA": None, "HSV": None}
    picture = PIL.fromarray(COLOUR).convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode)
    picture = picture.convert(mode)
    if kind := kinds.get(mode, "png"):
        picture = PIL.open(io.BytesIO(saved(picture, kind)))
    grey = mode in ("1", "L", "LA", "La")
    plain = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(picture.mode, picture.mode)
    for channels, form in ((None, "L" if grey else "RGB"), (1, "L"), (3, "RGB")):
        found, made = image_classification._array(picture, "row 0", None, channels)
        wanted = np.asarray(picture.convert(plain).convert(form))
        np.testing.assert_array_equal(found, wanted[..., None] if form == "L" else wanted)
        assert made and found.dtype == np.uint8


def test_a_palette_with_transparency_is_read_without_a_warning():
    picture = PIL.fromarray(COLOUR).quantize(4)
    content = saved(picture, transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(rows_of([content]).images[0], np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_modes_that_cannot_be_read_are_named(mode):
    picture = PIL.new(mode, (2, 2))
    with pytest.raises(ValueError, match=f"row 7: a picture of mode {mode} has more than 8 bits"):
        image_classification._array(picture, "row 7", None, None)


def test_grey_and_colour_pictures_beside_each_other():
    both = [png(GREY), png(COLOUR)]
    rows = rows_of(both)
    np.testing.assert_array_equal(rows.images, [np.stack([GREY] * 3, -1), COLOUR])
    np.testing.assert_array_equal(rows_of(both[::-1]).images, rows.images[::-1])
    np.testing.assert_array_equal(
        rows_of(both, channels=3, size=(2, 5)).images, rows_of(both, size=(2, 5)).images
    )
    grey = rows_of(both, channels=1).images
    np.testing.assert_array_equal(grey[..., 0], [GREY, np.asarray(PIL.fromarray(COLOUR).convert("L"))])
    assert rows_of([png(GREY)] * 2, channels=3).images.shape == (2, 3, 4, 3)


def test_floats_stay_as_they_are():
    rows = rows_of([[[0.0, 0.25], [0.5, 1.0]]])
    assert rows.take(np.array([0]))["image"][0, ..., 0].tolist() == [[0.0, 0.25], [0.5, 1.0]]


def test_pictures_are_scaled_and_their_modes_unified():
    pictures = [png(COLOUR), png(np.zeros((5, 6, 4), np.uint8))]
    assert rows_of(pictures, size=(2, 7)).images.shape == (2, 2, 7, 3)


def test_the_number_of_classes_comes_from_the_data_set():
    features = datasets.Features(
        {"image": datasets.Array2D((3, 4), "uint8"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    assert rows_of([GREY, GREY], features=features).classes == 3
    assert rows_of([GREY.tolist()] * 2, classes=7).classes == 7


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, -1, 10]), min_size=1, max_size=9))
def test_classes_are_those_that_occur(labels):
    names = [str(label) for label in sorted(set(labels))]
    for values in (labels, list(map(str, labels))):
        rows = rows_of([GREY.tolist()] * len(labels), values)
        assert rows.classes == len(names) and [names[i] for i in rows.labels] == list(map(str, labels))
    others = rows_of([GREY.tolist()], labels[-1:], classes=names)
    assert others.classes == len(names) and others.labels[0] == rows.labels[-1]


def test_fashionable_column_names():
    dataset = datasets.Dataset.from_dict({"img": [GREY.tolist()], "fine_label": [0]})
    with pytest.raises(ValueError, match=r"no column 'image', 'label'; it has 'img', 'fine_label'\. Choose"):
        data.image_classification_examples(dataset)
    assert len(data.image_classification_examples(dataset, image="img", label="fine_label")) == 1


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([GREY.tolist(), GREY[:2].tolist()], {}, r"row 1: its image has shape \[2, 4, 1\]"),
        ([[[0, 300]]], {}, "row 0: an image of integers has values from 0 to 255, got 0 to 300"),
        ([[[0.0, 1.5]]], {}, "row 0: an image of floats has values from 0 to 1.0, got 0.0 to 1.5"),
        ([[[0.0, float("nan")]]], {}, "row 0: an image of floats"),
        ([[1, 2]], {}, r"row 0: wanted an image .* got int64 \[2\]"),
        (["a.png"], {}, "row 0: wanted an image, got 'a.png'"),
        ([None], {}, "row 0: wanted an image, got None"),
        ([b"nonsense"], {}, "row 0: its bytes are not a picture"),
        ([png(GREY.astype(np.uint16))], {}, "row 0: a picture of mode I;16 has more than 8 bits"),
        ([GREY.tolist()] * 3, {"classes": 2}, "row 2: label 2 .* is none of the 2 classes .*'0', '1'"),
        ([GREY.tolist()] * 2, {"labels": ["cat", "dog"], "classes": 2}, "row 0: label 'cat' .* is none of"),
        (
            [GREY.tolist()] * 2,
            {"labels": [0, None]},
            "row 1: wanted a text or an integer as label .* got nothing",
        ),
        ([GREY.tolist()] * 2, {"labels": ["a", " "]}, "row 1: wanted a text .* got ' '"),
        ([png(GREY)[:50]], {}, "row 0: its picture is damaged or too large"),
        (
            [{"bytes": None, "path": "/no/where.png"}],
            {},
            r"row 0 \(.*/no/where.png\): its picture cannot be read: .*/no/where.png",
        ),
        ([GREY.tolist()], {"channels": 3}, "row 0: got an array of 1 channels and channels=3"),
        ([png(GREY)], {"channels": 4}, r"channels: got 4; wanted 1 \(grey\), 3 \(RGB\) or None"),
        ([], {}, "the data set is empty"),
    ],
)
def test_bad_rows_are_named(images, options, message):
    with pytest.raises(ValueError, match=message):
        rows_of(images, **options)


def test_a_picture_that_cannot_be_used_is_named_by_its_file(tmp_path):
    for name, content in (("a/0.png", png(GREY)), ("a/1.png", png(GREY[:2])), ("b/2.png", b"nonsense")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"row 2 \(.*/b/2\.png\): its bytes are not a picture"):
        data.image_classification_examples(data.load(str(tmp_path)))
    (tmp_path / "b" / "2.png").write_bytes(png(GREY))
    with pytest.raises(ValueError, match=r"row 1 \(.*/a/1\.png\): its image has shape \[2, 4, 1\]"):
        data.image_classification_examples(data.load(str(tmp_path)))


def test_arrays_of_several_channels_are_not_converted():
    rows = datasets.IterableDataset.from_generator(
        lambda: ({"image": image, "label": 0} for image in (GREY, COLOUR))
    )
    with pytest.raises(
        ValueError, match=r"row 1: .* shape \[3, 4, 3\], .* \[3, 4, 1\].* one number of channels"
    ):
        data.image_classification_examples(rows)


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"got \[2, 3, 4\] and \[2\]"):
        data.ImageClassificationExamples(np.zeros((2, 3, 4)), np.zeros(2, int), 2)


def test_labels_are_integers():
    with pytest.raises(ValueError, match="wanted integers as label, got float64"):
        data.ImageClassificationExamples(np.zeros((2, 3, 4, 1), np.uint8), np.array([0.0, 1.5]), 2)
