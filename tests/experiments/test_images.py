import dataclasses
import json
import os
import re
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.images import run
from experiments.images.augment import AugmentConfig, augment
from experiments.images.config import Config, DataConfig, ViewsConfig
from experiments.images.run import main, make_loss, predict, svc_predict
from experiments.inputs import RunInputs
from tfm_jax import data, nn, train
from tfm_jax.train.run_directory import load_config
from tfm_jax.values import from_dict, to_dict

SMALL = (
    "--model.d-model", "8", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "8",
    "--train.steps", "4", "--train.batch-size", "8", "--train.evaluate-every", "2",
    "--train.checkpoint-every", "2", "--train.optimizer.warmup", "2", "--train.log-every", "1",
)  # fmt: skip
RUN_FILES = {
    "config.json", "model.json", "task.json", "preprocessor_config.json", "metrics.jsonl", "events",
    "checkpoints", "curves.png", "confusion.png", "result.json", "inputs.npz",
}  # fmt: skip
NO_CHANGE = AugmentConfig(rotate=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0)


def write_mnist(directory, *, shape=(8, 12), labels=lambda n: np.arange(n) % 10, **parts):
    """Writes parquet files of images; the position of a bright column is the label."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for name, n in parts.items():
        images = np.zeros((n, *shape), np.uint8)
        images[np.arange(n), :, np.arange(n) % 10] = 255
        images[:, -1, -1] = np.arange(n) + 9 * len(name)  # no two are equal, which would be in one split
        rows = {"image": list(images), "label": labels(n)}
        directory.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(directory / f"{name}.parquet")
    return str(directory)


def prepare(path, **settings):
    return run._prepare(Config(data=DataConfig(**settings)), path, RunInputs("images", path))


def result_of(path):
    return json.loads((path / "result.json").read_text())


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_digits_from_the_command_line_to_the_confusion_matrix(tmp_path, capsys):
    out = tmp_path / "run"
    main(["--out", str(out), *SMALL])
    assert {p.name for p in out.iterdir()} == RUN_FILES
    for picture in ("curves.png", "confusion.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    result = result_of(out)
    assert {"test_accuracy", "svc_accuracy", "test_images", "seconds"} == result.keys()
    assert (
        result["test_images"] == 360 and result["svc_accuracy"] > 0.95 and 0 <= result["test_accuracy"] < 0.5
    )
    printed = capsys.readouterr().out
    counts = "1,257 train (69.9 %), 180 validation (10.0 %), 360 test (20.0 %)"
    assert f"images of 8 x 8 x 1: {counts}; patches of 2 x 2" in printed
    assert "svc_accuracy: 0.9" in printed and str(out / "confusion.png") in printed
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "accuracy"} < lines[0].keys()
    # The first steps compile, which no rate counts.
    assert "images_per_second" in lines[-1] and "images_per_second" not in lines[0]
    assert {"validation/loss", "validation/accuracy"} <= lines[1].keys()
    assert load_config(Config, out / "config.json").model.d_model == 8


@pytest.mark.slow
def test_stopped_run_resumed_on_other_devices_ends_the_same(tmp_path, monkeypatch):
    source = ("--data.source", write_mnist(tmp_path / "mnist", train=40, test=10))
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    main(["--out", str(uninterrupted), *SMALL, *source])
    take = data.ImageClassificationExamples.take
    with monkeypatch.context() as patch:

        def take_and_stop(examples, indices, shape=None):
            if len(examples) == 37:  # training images
                os.kill(os.getpid(), signal.SIGTERM)
            return take(examples, indices, shape)

        patch.setattr(data.ImageClassificationExamples, "take", take_and_stop)
        with pytest.raises(SystemExit, match="saved; resume by"):
            main(["--out", str(stopped), *SMALL, *source])
    assert not (stopped / "result.json").exists()
    main(["--out", str(stopped), *SMALL, *source, "--resume", "--mesh.data", "2"])
    ours, theirs = (
        train.load_params(path / "checkpoints", 4, item="ema") for path in (uninterrupted, stopped)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert result_of(uninterrupted)["test_accuracy"] == result_of(stopped)["test_accuracy"]


@pytest.mark.slow
def test_colour_pictures_in_directories_of_another_size(tmp_path, capsys):
    import PIL.Image

    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("validation", 2), ("test", 3)):
        for name in ("four", "two"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (9 + i, 6, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    source = ("--data.source", str(tmp_path / "pictures"), "--data.classes", "2", "--data.size", "12", "6")
    main(["--out", str(tmp_path / "run"), *SMALL, *source, "--patch-size", "3", "--train.patience", "9"])
    assert (
        "images of 12 x 6 x 3: 12 train (54.5 %), 4 validation (18.2 %), 6 test (27.3 %); patches of 3 x 3"
        in capsys.readouterr().out
    )
    assert result_of(tmp_path / "run")["test_images"] == 6


def test_grey_and_colour_pictures_with_integer_labels(tmp_path, tmp_path_factory):
    import PIL.Image

    lines = ["file_name;label"]
    for i in range(20):
        PIL.Image.new("L", (8, 8), i).convert("RGB" if i % 4 == 0 else "L").save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png;{1 + i % 5}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    for channels, found in ((None, 3), (1, 1)):
        settings = {"source": str(tmp_path), "separator": ";", "channels": channels}
        task = prepare(tmp_path_factory.mktemp("run"), **settings)
        assert task.class_names == ["1", "2", "3", "4", "5"] and task.examples["train"].classes == 5
        for examples in task.examples.values():
            assert examples.images.shape[1:] == (8, 8, found)
            np.testing.assert_array_equal(
                examples.labels, np.argmax(examples.images[:, 0, 0, :1] % 5 == range(5), -1)
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data.label", "digit"), r"the columns 'image', 'label'; wanted 'digit'"),
        (("--data.classes", "9"), r"label.*9"),
        (("--patch-size", "5"), r"got size=5 with images of 8 x 12; wanted a size that divides both"),
        (("--data.held-out", "0"), "got no images for validation, and --data.held-out 0; wanted some"),
        (("--data.source", "nowhere.parquet"), r"got 'nowhere.parquet' .*no file or directory.*'digits'"),
        (("--model.positions", "Learned(max_length=3)"), "got a sequence of 24; wanted at most max_length=3"),
    ],
)
def test_unusable_data_exit_with_one_message_and_leave_no_run(tmp_path, arguments, message):
    source = ("--data.source", write_mnist(tmp_path / "mnist", train=20, test=10))
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=f"(?s)images: .*{message}"):
        main(["--out", str(out), *SMALL, *source, *arguments])
    assert not out.exists()


def test_label_of_a_test_image_out_of_range_exits_before_training(tmp_path):
    source = write_mnist(tmp_path / "mnist", train=20)
    write_mnist(tmp_path / "mnist", test=10, labels=lambda n: np.arange(n) + 3)
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=r"images: .*'10' \(1 in test\), '11' \(1 in test\)"):
        main(["--out", str(out), *SMALL, "--data.source", source])
    assert not out.exists()


def test_class_of_held_out_pictures_only_is_an_error_or_dropped(tmp_path):
    """The choice of held-out images ignores labels: a rare class may have no training example."""
    import PIL.Image

    for name, n in (("bus", 12), ("car", 12), ("tram", 1)):
        (tmp_path / "p" / name).mkdir(parents=True)
        for i in range(n):
            PIL.Image.new("L", (4, 4), 20 * i + len(name)).save(tmp_path / "p" / name / f"{i}.png")
    found = set()
    for salt in "abcdef":
        settings = {"source": str(tmp_path / "p"), "held_out": 0.3, "held_out_salt": salt}
        try:
            task = prepare(tmp_path, **settings)
            assert task.class_names == ["bus", "car", "tram"] and 2 in task.examples["train"].labels
        except ValueError as error:
            found.add(re.search(r"without a training example: 'tram' \(1 in (\w+)\)", str(error))[1])
            task = prepare(tmp_path, **settings, drop_missing_classes=True)
            assert task.class_names == ["bus", "car"] and sum(map(len, task.examples.values())) == 24
    assert found == {"validation", "test"}


def test_one_class_raises(tmp_path):
    source = write_mnist(tmp_path / "mnist", train=20, test=3, labels=lambda n: np.full(n, 7))
    with pytest.raises(ValueError, match="got training examples of one class, '7'; wanted two or more"):
        prepare(tmp_path, source=source)


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Image classification with a Transformer encoder",
        "--data.source STR",
        "--patch-size {None}|INT",
        "--model.n-layers INT",
        "--augment.rotate FLOAT Degrees, in both directions.",
        "--data.size {None}|{INT INT}",
    ):
        assert part in text, part
    with pytest.raises(SystemExit):
        main(["--model.patches", "Patches(height=8, width=8)"])
    assert "got --model.patches; wanted --patch-size" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


@given(
    st.builds(nn.Config, d_model=st.just(8), n_heads=st.just(2), positions=st.none() | st.just(nn.Rope())),
    st.builds(AugmentConfig, rotate=st.floats(0, 90)),
    st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_config_round_trips_through_json(model, changes, size):
    data_config = from_dict(Config, {}).data.__class__(size=size)
    config = Config(model=model, augment=changes, data=data_config)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


MODEL = nn.functionalize(
    nn.Classifier, nn.Config(d_model=8, n_layers=1, n_heads=2, d_ff=8, patches=nn.Patches(4, 6, 1, 2)), 3
)


def batch_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.uniform(size=(n, 4, 6, 1)).astype(np.float32),
        "labels": rng.integers(0, 3, n).astype(np.int32),
        "weights": np.ones(n, np.float32),
    }


def test_loss_without_a_key_is_cross_entropy_without_padding():
    params = MODEL.init(jax.random.key(0))
    loss_fn, batch = make_loss(MODEL, AugmentConfig(), label_smoothing=0.3), batch_of(5)
    (total, weight), metrics = loss_fn(params, batch, None)
    logits = np.asarray(MODEL.apply(params, batch["images"]), np.float64)
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), batch["labels"]]
    assert (float(total), float(weight)) == (pytest.approx(nll.sum(), rel=1e-5), 5)
    assert float(metrics["accuracy"][0]) == (logits.argmax(1) == batch["labels"]).sum()
    padded = {name: np.concatenate([x, np.zeros_like(x[:2])]) for name, x in batch.items()}
    chex.assert_trees_all_close(loss_fn(params, padded, None), loss_fn(params, batch, None), rtol=1e-6)


def test_loss_with_a_key_augments_images_and_smooths_labels():
    params, batch, key = MODEL.init(jax.random.key(0)), batch_of(5), jax.random.key(1)

    def loss(changes, smoothing, key):
        return float(make_loss(MODEL, changes, smoothing)(params, batch, key)[0][0])

    plain = loss(NO_CHANGE, 0.0, None)
    assert loss(NO_CHANGE, 0.0, key) == pytest.approx(plain, rel=1e-5)
    assert loss(NO_CHANGE, 0.3, key) != pytest.approx(plain, rel=1e-5)
    assert loss(AugmentConfig(), 0.0, key) != pytest.approx(plain, rel=1e-5)
    assert loss(AugmentConfig(), 0.0, key) != loss(AugmentConfig(), 0.0, jax.random.key(2))


def test_predictions_are_in_order_and_views_can_change_them():
    params, batch = MODEL.init(jax.random.key(0)), batch_of(7)
    logits = np.asarray(MODEL.apply(params, batch["images"]))
    params["head"]["dense"]["bias"] = -jnp.asarray(logits.mean(0))  # so that predictions depend on the images
    expected = (logits - logits.mean(0)).argmax(1)
    assert len(set(expected)) > 1
    examples = data.ImageClassificationExamples(batch["images"], batch["labels"], 3)
    alone = ViewsConfig(copies=0)
    np.testing.assert_array_equal(predict(MODEL, params, examples, batch_size=4, views=alone), expected)
    # unchanged copies do not change predictions; changed ones can
    same = ViewsConfig(copies=2, changes=NO_CHANGE)
    np.testing.assert_array_equal(predict(MODEL, params, examples, batch_size=4, views=same), expected)
    away = ViewsConfig(copies=50, changes=dataclasses.replace(NO_CHANGE, shift=1.0))
    assert np.any(predict(MODEL, params, examples, batch_size=4, views=away) != expected)


def test_negative_number_of_copies_raises():
    with pytest.raises(ValueError, match=r"--views.copies: got -1"):
        ViewsConfig(copies=-1)


def test_svc_equals_that_of_the_example_of_scikit_learn():
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    training, test = (
        data.image_classification_examples(data.load("digits", name)) for name in ("train", "validation")
    )
    every = {(image / np.float32(16)).tobytes(): image for image in load_digits().images.astype(np.float32)}

    def original(examples):
        return np.stack([every[image.tobytes()] for image in examples.images[..., 0]])

    fitted = SVC(gamma=0.001).fit(original(training).reshape(len(training), -1), training.labels)
    expected = fitted.predict(original(test).reshape(len(test), -1))
    np.testing.assert_array_equal(svc_predict(training, test), expected)


# Interpolation is linear: augmenting an image of coordinates shows the source point of each pixel.
SHAPE = (10, 16)
POINTS = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in SHAPE), indexing="ij"), -1)
INSIDE = (slice(3, 7), slice(5, 11))


def source_points(seed, **changes):
    """The source points of the inner pixels of four images, [4, pixels, 2]."""
    config = AugmentConfig(
        **{"rotate": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "elastic": 0.0, **changes}
    )
    images = jnp.broadcast_to(jnp.asarray(POINTS, jnp.float32), (4, *POINTS.shape))
    changed = jax.jit(augment, static_argnums=2)(images, jax.random.key(seed), config)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    return np.asarray(changed)[(slice(None), *INSIDE)].reshape(4, -1, 2)


def linear_part(points):
    """The linear part, the offset and the residual of the map from pixels to source points."""
    pixels = POINTS[INSIDE].reshape(-1, 2)
    design = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
    fit, residual, *_ = np.linalg.lstsq(design, points, rcond=None)
    return fit[:2].T, fit[2], residual.sum()


seeds = st.integers(0, 2**31 - 1)


@given(seeds)
def test_augmentation_of_size_0_is_the_identity(seed):
    np.testing.assert_allclose(source_points(seed), POINTS[INSIDE].reshape(1, -1, 2).repeat(4, 0), atol=1e-6)


@given(seeds)
def test_rotation_is_orthogonal_and_within_its_limit(seed):
    angles = []
    for points in source_points(seed, rotate=20.0):
        linear, shift, residual = linear_part(points)
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-4)
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
        assert np.linalg.det(linear) > 0 and np.abs(shift).max() < 1e-5 and residual < 1e-8
    assert np.abs(angles).max() <= 20.001 and len(set(np.round(angles, 3))) == 4


@given(seeds)
def test_scale_shear_and_shift_are_within_their_limits(seed):
    for points in source_points(seed, scale=0.2):
        linear, shift, _ = linear_part(points)
        np.testing.assert_allclose(linear, np.diag(np.diag(linear)), atol=1e-5)
        assert np.abs(np.log(np.diag(linear))).max() <= 0.2001 and np.abs(shift).max() < 1e-5
    for points in source_points(seed, shear=0.3):
        linear, shift, _ = linear_part(points)
        np.testing.assert_allclose(np.diag(linear), 1, atol=1e-5)
        assert np.abs(linear - np.eye(2)).max() <= 0.3001 and np.abs(shift).max() < 1e-5
    for points in source_points(seed, shift=0.1):
        linear, shift, _ = linear_part(points)
        np.testing.assert_allclose(linear, np.eye(2), atol=1e-4)
        assert 0 < np.abs(shift).max() <= 0.1001


@given(seeds)
def test_elastic_deformation_is_not_linear(seed):
    for points in source_points(seed, elastic=0.03):
        assert linear_part(points)[2] > 1e-6
        assert np.abs(points - POINTS[INSIDE].reshape(-1, 2)).max() < 0.3


@given(seeds)
def test_augmented_images_stay_in_range_with_0_outside(seed):
    images = jnp.ones((3, 6, 4, 2))
    changed = np.asarray(augment(images, jax.random.key(seed), AugmentConfig(shift=0.5)))
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6 and (changed < 0.99).any()
    np.testing.assert_allclose(changed[..., 0], changed[..., 1])  # all channels get the same transform
