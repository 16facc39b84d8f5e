"""Image classification: labels follow the logits, whatever the batch; pictures are as in transformers."""

import json
import weakref

import jax
import numpy as np
import pytest

from tests.memory import check_another_use_keeps_nothing
from tests.pretrained.families.test_families import FIELDS
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.pretrained.tasks import image_classification
from tfm_jax.train import make_mesh

NAMES = {"0": "cat", "1": "dog", "2": "axolotl"}
PROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 6, "width": 8},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.5],
}
CONFIG = nn.Config(**FIELDS["vit"] | {"patches": nn.Patches(6, 8, 3, 2, class_token=True)})
CONFIG = nn.Config(**{**CONFIG.__dict__, "positions": nn.Learned(13)})
RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (*sides, 3), np.uint8) for sides in ((6, 8), (9, 5), (20, 31), (3, 4), (6, 8))]


def save(directory, architecture="ViTForImageClassification", processing=PROCESSING, **settings):
    config = pretrained.CheckpointConfig(architecture, CONFIG, {"id2label": NAMES} | settings)
    shapes = jax.eval_shape(model_of(config, find_family(architecture)).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    pretrained.save(directory, params, config)
    (directory / "preprocessor_config.json").write_text(json.dumps(processing))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(tmp_path_factory.mktemp("images") / "vit")


@pytest.fixture(scope="module")
def classifier(directory):
    return pretrained.load_image_classifier(directory)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def logits(classifier, image):
    return np.asarray(classifier.model.apply(classifier.params, classifier.processor(image)))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_each_image_gets_the_label_of_the_largest_logit(classifier, batch_size):
    assert classifier.labels == ("cat", "dog", "axolotl")
    found = classifier(IMAGES, batch_size=batch_size)
    assert len(found) == len(IMAGES)
    for image, label in zip(IMAGES, found, strict=True):
        wanted = softmax(logits(classifier, image))
        np.testing.assert_allclose(label.scores, wanted, rtol=1e-5, atol=1e-6)
        assert label.label == classifier.labels[wanted.argmax()] and label.score == label.scores.max()
    assert np.ptp([label.scores for label in found], axis=0).max() > 0.01
    assert classifier([]) == []


def test_files_images_of_pillow_and_arrays_are_the_same_picture(classifier, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    picture = Image.fromarray(IMAGES[2])
    picture.save(tmp_path / "x.png")
    found = classifier(
        [tmp_path / "x.png", str(tmp_path / "x.png"), picture, IMAGES[2], jax.numpy.asarray(IMAGES[2])]
    )
    for label in found:
        np.testing.assert_array_equal(label.scores, found[0].scores)
    grey = picture.convert("L")
    once, repeated = classifier([grey, np.asarray(grey)[..., None]])
    np.testing.assert_array_equal(once.scores, repeated.scores)
    assert not np.allclose(once.scores, found[0].scores, atol=1e-3)


def test_pictures_follow_their_orientation(classifier, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    picture = Image.fromarray(IMAGES[2])
    exif = picture.getexif()
    exif[0x0112] = 6  # turned: the first row is the right side
    picture.save(tmp_path / "turned.png", exif=exif)
    turned, upright = classifier([tmp_path / "turned.png", np.ascontiguousarray(np.rot90(IMAGES[2], -1))])
    np.testing.assert_array_equal(turned.scores, upright.scores)


def test_a_classifier_of_grey_images_reads_pictures_as_grey(directory):
    Image = pytest.importorskip("PIL.Image")
    found = pretrained.load_image_classifier(directory)
    grey = image_classification.ImageClassifier(
        found.model, found.params, found.processor, found.labels, channels=1
    )
    picture = Image.fromarray(IMAGES[2])
    (got,) = grey([picture])
    (wanted,) = found([np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=-1)])
    np.testing.assert_array_equal(got.scores, wanted.scores)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"problem_type": "multi_label_classification"}, lambda x: 1 / (1 + np.exp(-x))),
        ({"problem_type": "regression"}, lambda x: x),
        ({"problem_type": "single_label_classification"}, softmax),
    ],
)
def test_scores_follow_the_problem_type(tmp_path, settings, wanted):
    classifier = pretrained.load_image_classifier(save(tmp_path / "model", **settings))
    (label,) = classifier(IMAGES[:1])
    np.testing.assert_allclose(label.scores, wanted(logits(classifier, IMAGES[0])), rtol=1e-5, atol=1e-6)


def test_parameters_in_bfloat16(directory, classifier):
    rounded = pretrained.load_image_classifier(directory, "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(rounded.params)} == {jax.numpy.dtype("bfloat16")}
    scores, exact = (np.array([x.scores for x in found(IMAGES)]) for found in (rounded, classifier))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, atol=0.1)


def test_loading_a_config_again_compiles_nothing_and_keeps_nothing(directory):
    def use():
        classifier = pretrained.load_image_classifier(directory)
        classifier(IMAGES)
        return weakref.ref(classifier)

    check_another_use_keeps_nothing(use, image_classification._scores)


def test_devices_share_each_batch(directory, classifier):
    shared = pretrained.load_image_classifier(directory, mesh=make_mesh(data=3))
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(shared.params)} == {3}
    for got, wanted in zip(shared(IMAGES, batch_size=4), classifier(IMAGES), strict=True):
        np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="wanted axes of type Auto"):
        pretrained.load_image_classifier(directory, mesh=jax.make_mesh((3,), ("x",)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "got None as image 1; wanted a path, an image of Pillow or an array"),
        (np.zeros((6, 8, 3)), r"got float64\[6, 8, 3\] as image 1; wanted"),
        (np.zeros((6, 8), np.uint8), r"got uint8\[6, 8\] as image 1; wanted"),
        (np.zeros((0, 8, 3), np.uint8), r"got image 1 of \[0, 8, 3\]; wanted at least one pixel"),
        (np.zeros((6, 8, 4), np.uint8), "got 4 channels in image 1; wanted 3, those of the model"),
        ("no.png", r"got \[Errno 2\] .*no.png.* for image 1; wanted the path of an image file"),
        (".", "got .* for image 1; wanted the path of an image file"),
    ],
    ids=["none", "floats", "two axes", "empty", "four channels", "no file", "a directory"],
)
def test_a_wrong_image_is_one_error_with_its_index(classifier, image, message):
    with pytest.raises(ValueError, match=f"^ImageClassifier: {message}"):
        classifier([IMAGES[0], image], batch_size=1)


def test_a_damaged_file_is_one_error_with_its_index_and_name(classifier, tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^ImageClassifier: got bytes .* in image 0 \(.*text.png\); wanted"):
        classifier([tmp_path / "text.png"])


@pytest.mark.parametrize("images", ["x.png", IMAGES[0], 5])
def test_one_image_is_no_list(classifier, images):
    with pytest.raises(ValueError, match=r"wanted a list of images\. Put it into a list"):
        classifier(images)


def test_no_batch_is_empty(classifier):
    with pytest.raises(
        ValueError, match="ImageClassifier: got batch_size=0; wanted an integer of at least 1"
    ):
        classifier(IMAGES, batch_size=0)


def test_preprocessing_to_another_size_is_an_error(tmp_path):
    wrong = save(tmp_path / "model", processing=PROCESSING | {"size": {"height": 8, "width": 8}})
    with pytest.raises(
        ValueError, match=r"got image 0 of \[8, 8, 3\] after its preprocessing; wanted \[6, 8, 3\]"
    ):
        pretrained.load_image_classifier(wrong)(IMAGES)


def test_a_model_without_a_head_is_no_classifier(tmp_path):
    with pytest.raises(
        ValueError, match=r"load_image_classifier: got .*, a ViTModel; wanted an image classifier"
    ):
        pretrained.load_image_classifier(save(tmp_path / "body", "ViTModel"))


def test_without_preprocessing_it_is_no_classifier(tmp_path):
    (save(tmp_path / "model") / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        pretrained.load_image_classifier(tmp_path / "model")


@pytest.mark.parity
@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_labels_and_scores_equal_those_of_the_pipeline_of_transformers(tmp_path, problem):
    transformers, Image = pytest.importorskip("transformers"), pytest.importorskip("PIL.Image")
    directory = save(tmp_path / "model", problem_type=problem)
    processor = transformers.ViTImageProcessorPil.from_pretrained(directory)
    model = transformers.ViTForImageClassification.from_pretrained(directory)
    pipeline = transformers.pipeline("image-classification", model=model, image_processor=processor)
    pictures = [Image.fromarray(image) for image in IMAGES]
    pictures.append(pictures[2].convert("L"))
    found = pretrained.load_image_classifier(directory)(pictures)
    for ours, theirs in zip(found, pipeline(pictures, top_k=3), strict=True):
        assert ours.label == theirs[0]["label"]
        scores = {x["label"]: x["score"] for x in theirs}
        np.testing.assert_allclose(
            ours.scores, [scores[name] for name in NAMES.values()], rtol=1e-4, atol=1e-5
        )
