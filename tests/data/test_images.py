import io

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfm_jax import data

PIL = pytest.importorskip("PIL.Image")
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY + 1, GREY + 2], -1)


def rows_of(images, labels=None, features=None, **options):
    labels = list(range(len(images))) if labels is None else labels
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    return data.classification_rows(dataset, **options)


def png(array):
    file = io.BytesIO()
    PIL.fromarray(array).save(file, "png")
    return file.getvalue()


@given(hnp.arrays(np.uint8, (3, 2, 4, 1)), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_the_contract(images, labels):
    rows = data.ImageRows(images, np.array(labels), 5)
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
    rows = data.classification_rows(dataset)
    expected = array.reshape(3, 4, -1)
    assert rows.classes == 4
    np.testing.assert_allclose(rows.take(np.array([1]))["image"][0], expected / 255, rtol=1e-6)


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


def test_fashionable_column_names():
    dataset = datasets.Dataset.from_dict({"img": [GREY.tolist()], "fine_label": [0]})
    with pytest.raises(ValueError, match=r"no column 'image', 'label'; it has 'img', 'fine_label'\. Choose"):
        data.classification_rows(dataset)
    assert len(data.classification_rows(dataset, image="img", label="fine_label")) == 1


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
        ([GREY.tolist()] * 3, {"classes": 2}, "row 2: label 2 is out of range: wanted 0 <= label < 2"),
        ([GREY.tolist()] * 2, {"labels": [0, -1]}, "row 1: label -1 is out of range"),
        ([GREY.tolist()] * 2, {"labels": ["cat", "dog"]}, "row 0: wanted an integer label .* got 'cat'"),
        ([GREY.tolist()] * 2, {"labels": [0, None]}, "row 1: wanted an integer label .* got None"),
        ([], {}, "the data set is empty"),
    ],
)
def test_bad_rows_are_named(images, options, message):
    with pytest.raises(ValueError, match=message):
        rows_of(images, **options)


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"got \[2, 3, 4\] and \[2\]"):
        data.ImageRows(np.zeros((2, 3, 4)), np.zeros(2, int), 2)


def test_labels_are_integers():
    with pytest.raises(ValueError, match="wanted integers as label, got float64"):
        data.ImageRows(np.zeros((2, 3, 4, 1), np.uint8), np.array([0.0, 1.5]), 2)
