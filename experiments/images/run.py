"""Trains a classifier of images and tests it, once, on images it has never seen."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.images.augment import AugmentConfig, augment
from experiments.images.config import Config, DataConfig, ViewsConfig
from experiments.images.model import check_images, encoder_of, make_model, reader
from experiments.init_from import ENCODERS, begin, parse
from tfm_jax import data, nn, ops, train, viz
from tfm_jax.types import Array, Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "predict", "run", "svc_predict"]

NAME = "digits"
SVC_ROWS = 10_000


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Raises:
        SystemExit: with one clear message, where what was asked for cannot be done.
    """
    runner.escape_unencodable()
    run(parse(Config, argv))


def run(config: Config) -> None:
    """Loads, trains and tests; leaves everything in the run's directory.

    Args:
        config: the settings.

    Raises:
        SystemExit: as `main`.
    """
    here, given = begin(config, NAME, ENCODERS)
    config = here.config
    with here.preparing():
        task = _prepare(config, here.path)
        here.write_model(task.encoder)
    size, seed = config.train.batch_size, config.train.seed
    rows, valid = task.rows["train"], task.rows["validation"]
    trained = here.fit(
        init=task.model.init,
        loss_fn=make_loss(task.model, config.augment, config.label_smoothing),
        batches=iter(data.Loader(rows, data.UniformBatches(len(rows), size, seed))),
        d_model=config.model.d_model,
        given=given,
        digests=task.digests,
        valid=lambda: data.Loader(valid, data.UniformBatches(len(valid), size)),
        unit="images",
        curves=functools.partial(viz.curves, title=NAME),
    )
    params = trained.params if config.train.patience is None else trained.best_params()
    with runner.exit_on_error(NAME):
        here.finish(_test(task, params, config, here.path))


def make_loss(model: nn.Pure, changes: AugmentConfig, label_smoothing: float) -> train.LossFn:
    """The loss of a batch of labelled images: cross-entropy.

    Args:
        model: an ``nn.Classifier``.
        changes: what is done to the images in training, where there is a key.
        label_smoothing: in training.

    Returns:
        ``loss_fn(params, batch, key)``, with the "accuracy".
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        images, labels, weight = batch["image"], batch["label"], batch["weight"]
        smoothing = 0.0
        if key is not None:
            augment_key, key = jax.random.split(key)
            images, smoothing = augment(images, augment_key, changes), label_smoothing
        logits = model.apply(params, images, key=key)
        loss = ops.cross_entropy(logits, labels, weights=weight, label_smoothing=smoothing)
        right = weight * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (right.sum(), weight.sum())}

    return loss_fn


def predict(
    model: nn.Pure, params: Params, rows: data.ImageRows, batch_size: int, views: ViewsConfig
) -> np.ndarray:
    """The class that the model finds most likely, for each image.

    Equivalent to::

        seen = [image, *(augment(image, key, views.changes) for key in keys)]    # views.copies keys
        argmax(sum(softmax(model(x)) for x in seen))

    Args:
        model: an ``nn.Classifier``.
        params: its parameters.
        rows: the images.
        batch_size: how many at a time.
        views: the changed copies of an image that are looked at beside it; always the same ones.

    Returns:
        int [rows]
    """

    @jax.jit
    def classify(params: Params, images: Array) -> Array:
        look = lambda images: jax.nn.softmax(model.apply(params, images))
        keys = jax.random.split(jax.random.key(0), views.copies)
        copies = jax.lax.map(lambda key: look(augment(images, key, views.changes)), keys)
        return jnp.argmax(look(images) + copies.sum(0), axis=-1)

    batches = data.Loader(rows, data.UniformBatches(len(rows), batch_size))
    found = np.concatenate([np.asarray(classify(params, batch["image"])) for batch in batches])
    return found[: len(rows)]


def svc_predict(rows: data.ImageRows, test: data.ImageRows) -> np.ndarray:
    """The classes that scikit-learn's ``SVC(gamma=0.001)`` finds, as in its own example of the digits.

    Args:
        rows: the images to train it on; the pixels are scaled to 0 to 16.
        test: the images to classify.

    Returns:
        int [test]
    """
    from sklearn.svm import SVC

    flat = lambda rows: 16 * rows.take(np.arange(len(rows)))["image"].reshape(len(rows), -1)
    return SVC(gamma=0.001).fit(flat(rows), rows.labels).predict(flat(test))


@dataclasses.dataclass(frozen=True)
class _Task:
    """All that does not change while a model is trained."""

    rows: dict[str, data.ImageRows]
    class_names: list[str]
    encoder: nn.Config
    model: nn.Pure
    digests: dict[str, str]


def _prepare(config: Config, path: Path) -> _Task:
    runner.require("sklearn", "matplotlib")
    splits, class_names = _load(config.data)
    rows = {"train": _rows(splits["train"], config, class_names)}
    for name in ("validation", "test"):
        rows[name] = _rows(splits[name], config, class_names, like=rows["train"])
    shape = rows["train"].images.shape[1:]
    encoder = encoder_of(config, shape)
    patches = encoder.patches
    counts = data.describe_splits({name: len(part) for name, part in rows.items()})
    size = lambda sides: " x ".join(map(str, sides))
    print(f"{NAME}: images of {size(shape)}: {counts}; patches of {size(patches.sides)}", flush=True)
    runner.check_classes(NAME, class_names, rows["train"].labels)
    read = reader(path, patches.channels)
    for part in rows.values():
        check_images(encoder, read, part.images.shape[1:])
    columns = [config.data.image, config.data.label]
    digests = {name: data.content_digest(splits[name], columns) for name in rows}
    model = make_model(encoder, len(class_names), read)
    return _Task(rows, class_names, encoder, model, digests)


def _load(of: DataConfig) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The splits, and the names of the classes: those of all rows of which some may be held out."""
    source = data.load_splits(
        of.source,
        columns=[of.image, of.label],
        validation=0.0,
        test=0.0,
        splits=of.splits,
        separator=of.separator,
        encoding=of.encoding,
    )
    class_names = data.label_names(source["train"], of.label, classes=of.classes)
    splits = data.hold_out(
        source, by=[of.image], validation=of.held_out, test=of.held_out, salt=of.held_out_salt
    )
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{of.source!r} has no images for {' and '.join(sorted(missing))}, and held_out is 0: "
            "hold a share out"
        )
    return splits, class_names


def _rows(
    dataset: datasets.Dataset, config: Config, class_names: list[str], like: data.ImageRows | None = None
) -> data.ImageRows:
    """The images; pictures are read with as many channels as those that the model is trained on."""
    of = config.data
    channels = of.channels if like is None else {1: 1, 3: 3}.get(like.images.shape[-1])
    return data.classification_rows(
        dataset, image=of.image, label=of.label, classes=class_names, size=of.size, channels=channels
    )


def _test(task: _Task, params: Params, config: Config, path: Path) -> dict[str, Any]:
    """Compares the model with an SVC trained on the same images, on the test images; the figures."""
    seen, test = task.rows["train"], task.rows["test"]
    ours = predict(task.model, params, test, config.train.batch_size, config.views)
    n = len(task.class_names)
    matrix = np.bincount(test.labels * n + ours, minlength=n * n).reshape(n, n)
    note = viz.confusion_matrix(matrix, task.class_names, path / "confusion.png", title="test images")
    if note:
        print(note)
    taught = seen
    if len(seen) > SVC_ROWS:  # its time grows with the square of their number
        some = np.random.default_rng(0).permutation(len(seen))[:SVC_ROWS]
        taught = data.ImageRows(seen.images[some], seen.labels[some], n)
    svc = svc_predict(taught, test)
    right = {
        "this model": int((ours == test.labels).sum()),
        "SVC(gamma=0.001)": int((svc == test.labels).sum()),
    }
    print(f"\nof {len(test):,} test images")
    for (name, count), number in zip(right.items(), (len(seen), len(taught)), strict=True):
        print(f"  {name:16}  {count:,} right, trained on {number:,} images")
    print(f"\nwhich digit was taken for which: {path / 'confusion.png'}\n")
    accuracy = {name: count / len(test) for name, count in right.items()}
    return {
        "test_accuracy": accuracy["this model"],
        "svc_accuracy": accuracy["SVC(gamma=0.001)"],
        "test_images": len(test),
    }
