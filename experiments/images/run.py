"""Trains an image classifier and tests it once, on unseen images."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import datasets
import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.classes import align_classes
from experiments.images.augment import AugmentConfig, augment
from experiments.images.config import Config, ViewsConfig
from experiments.images.model import (
    check_images,
    describe_shape,
    encoder_config,
    make_model,
    make_preprocess,
    patches_of,
    pooling_of,
    write_preprocessing,
)
from experiments.images.sizes import choose_size, picture_sizes
from experiments.init_from import ENCODERS, start_run
from experiments.inputs import RunInputs
from experiments.runner import require_packages
from tfm_jax import data, nn, ops, runs, train, viz
from tfm_jax.console import exit_on_error
from tfm_jax.data.labels import label_texts
from tfm_jax.data.splitting import content_digest, describe_splits, hold_out, input_hashes
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.run_directory import MODEL_FILE
from tfm_jax.types import Array, ImageClassificationBatch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "predict", "run_experiment", "svc_predict"]

NAME = "images"
_CHANNELS: dict[int, Literal[1, 3]] = {1: 1, 3: 3}
"""Channels that a picture can be read with: grey or RGB."""
SVC_EXAMPLES = 10_000
"""Largest number of training images of the SVC; its time grows with the square of it."""


def main(argv: Sequence[str] | None = None, *, name: str = NAME) -> None:
    """Runs the experiment, under a name, with these arguments, or those of the process."""
    command_line.run(functools.partial(run_experiment, name=name), Config, argv, name=name)


def run_experiment(config: Config, name: str = NAME) -> None:
    """Loads the data, trains and tests; writes everything into the run's directory."""
    run, initial_params = start_run(config, name, ENCODERS)
    config = run.config
    with run.setup():  # an error ends the process and leaves no run
        task = _prepare(config, run.path, run.inputs, name)
        run.shard(task.model.axes())
        run.check_inputs(task.model, task.examples["train"].images.shape[1:], dtype="float32")
        loss_fn = make_loss(task.model, config.augment, config.label_smoothing)
        optimizer, schedule = config.train.optimizer.build(config.model.d_model, config.train.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(task.model.init, optimizer, initial_params)
    training, validation, size = task.examples["train"], task.examples["validation"], config.train.batch_size
    shuffled = data.UniformBatchSampler(len(training), size, config.train.seed)
    batches = iter(data.Loader(training, shuffled, **run.share))
    in_order = data.Loader(validation, data.UniformBatchSampler(len(validation), size), **run.share)
    evaluate = run.compile_evaluation(loss_fn, in_order)
    flops = step_flops(task.model, examples=size, length=patches_of(task.model.config).count)
    model = task.model.config
    use = runs.Task(
        task="image-classification",
        labels=tuple(task.class_names),
        pooling=pooling_of(model),
        channels=_CHANNELS.get(training.images.shape[-1]),
    )
    with run.session(state, batches, task.digests, task=use, model=model) as (state, options):
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit="images",
            flops_per_step=flops, **options,
        )  # fmt: skip
    params = run.end_training(result)
    if config.train.patience is not None:
        params = run.best_params()
    with exit_on_error(name):
        run.finish(run.on_main(lambda params: _test(task, params, config, run.path), params))


def make_loss(
    model: nn.Pure[nn.Classifier], augmentation: AugmentConfig, label_smoothing: float
) -> train.LossFn[ImageClassificationBatch[Array]]:
    """Makes the loss of a batch of labelled images: cross-entropy.

    Args:
      model: the classifier.
      augmentation: of the images, in training (with a key).
      label_smoothing: in training.

    Returns:
      ``loss_fn(params, batch, key)``, with the metric "accuracy" and the model's auxiliary losses: metrics of
      their own, and with a key a part of the loss.
    """

    def loss_fn(
        params: Params, batch: ImageClassificationBatch[Array], key: Key | None
    ) -> tuple[SumWeight, dict[str, SumWeight]]:
        images, labels, weights = batch["images"], batch["labels"], batch["weights"]
        smoothing = 0.0
        if key is not None:
            augment_key, key = jax.random.split(key)
            images, smoothing = augment(images, augment_key, augmentation), label_smoothing
        logits, extras = model.apply(params, images, key=key, return_auxiliary=True)
        loss = ops.cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
        if key is not None:
            loss = train.add_auxiliary(loss, extras["auxiliary"])
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (correct.sum(), weights.sum()), **extras["auxiliary"]}

    return loss_fn


def predict(
    model: nn.Pure[nn.Classifier],
    params: Params,
    examples: data.ImageClassificationExamples,
    batch_size: int,
    views: ViewsConfig,
) -> np.ndarray:
    """Predicts the class of each image, with test-time augmentation.

    Equivalent to::

        views = [image, *(augment(image, key, views.changes) for key in keys)]    # views.copies keys
        argmax(sum(softmax(model(x)) for x in views))

    Args:
      model: the classifier.
      params: its parameters.
      examples: the images.
      batch_size: images per batch.
      views: the augmented copies of each image, the same ones at every call.

    Returns:
      int [examples]
    """

    def probabilities(params: Params, images: Array) -> Array:
        return jax.nn.softmax(model.apply(params, images))

    @jax.jit
    def classify(params: Params, images: Array) -> Array:
        def augmented(key: Key) -> Array:
            return probabilities(params, augment(images, key, views.changes))

        copies = jax.lax.map(augmented, jax.random.split(jax.random.key(0), views.copies))
        return jnp.argmax(probabilities(params, images) + copies.sum(0), axis=-1)

    batches = data.Loader(examples, data.UniformBatchSampler(len(examples), batch_size))
    predicted = np.concatenate([np.asarray(classify(params, batch["images"])) for batch in batches])
    return predicted[: len(examples)]


def svc_predict(
    training: data.ImageClassificationExamples, test: data.ImageClassificationExamples
) -> np.ndarray:
    """Predictions of scikit-learn's ``SVC(gamma=0.001)``, as in its own example of the digits.

    Args:
      training: the images to fit it to; their pixels are scaled to 0 to 16.
      test: the images to classify.

    Returns:
      int [test]
    """
    from sklearn.svm import SVC

    def features(examples: data.ImageClassificationExamples) -> np.ndarray:
        return 16 * examples.take(np.arange(len(examples)))["images"].reshape(len(examples), -1)

    svc = SVC(gamma=0.001)  # pyright: ignore[reportArgumentType]  - a default of str is no type
    return svc.fit(features(training), training.labels).predict(features(test))


@dataclasses.dataclass(frozen=True)
class _Task:
    """The examples and the model: all that training does not change."""

    examples: dict[str, data.ImageClassificationExamples]
    class_names: list[str]
    model: nn.Pure[nn.Classifier]
    digests: dict[str, str]


def _prepare(config: Config, path: Path, inputs: RunInputs, name: str = NAME) -> _Task:
    require_packages("sklearn", "matplotlib")
    splits, class_names = _load(config, inputs, name)
    size = _size(config, path, splits["train"], name)
    examples = {"train": _examples(splits["train"], config, class_names, size)}
    for split in ("validation", "test"):
        examples[split] = _examples(splits[split], config, class_names, size, like=examples["train"])
    shape = examples["train"].images.shape[1:]
    encoder = encoder_config(config, shape)
    patches = patches_of(encoder)
    counts = describe_splits({split: len(part) for split, part in examples.items()})
    sides = describe_shape(patches.sides)
    print(f"{name}: images of {describe_shape(shape)}: {counts}; patches of {sides}", flush=True)
    print(f"{name}: {len(class_names)} classes: {', '.join(class_names[:20])}", flush=True)
    preprocess = make_preprocess(path, patches)
    for part in examples.values():
        check_images(encoder, preprocess, part.images.shape[1:])
    if not (config.resume and (path / runs.PROCESSOR_FILE).exists()):  # a resume may not change the file
        write_preprocessing(path, preprocess, size, patches)
    columns = [config.data.image, config.data.label]
    digests = {split: content_digest(splits[split], columns) for split in examples}
    model = make_model(encoder, len(class_names), preprocess)
    return _Task(examples, class_names, model, digests)


def _load(config: Config, inputs: RunInputs, name: str) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The splits, and the names of the classes, those of held-out images included."""
    settings = config.data
    source = data.load_splits(
        settings.source,
        columns=[settings.image, settings.label],
        validation=0.0,
        test=0.0,
        splits=settings.splits,
        separator=settings.separator,
        encoding=settings.encoding,
    )
    class_names = data.label_names(source["train"], settings.label, classes=settings.classes)
    splits = hold_out(
        source,
        by=[settings.image],
        validation=settings.held_out,
        test=settings.held_out,
        salt=settings.held_out_salt,
    )
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{settings.source!r}: got no images for {' and '.join(sorted(missing))}, and --data.held-out 0; "
            "wanted some. Hold a share out"
        )
    splits = _without_held_out(inputs, splits, settings.image)
    labels = {
        split: [[label] for label in label_texts("label_ids", rows, class_names, settings.label)]
        for split, rows in splits.items()
    }
    drop = settings.drop_missing_classes
    classes = align_classes(name, class_names, labels, drop=drop, resumes=config.resume)
    kept = {split: splits[split].select(rows, keep_in_memory=True) for split, rows in classes.kept.items()}
    return kept, classes.names


def _without_held_out(
    inputs: RunInputs, splits: dict[str, datasets.Dataset], image: str
) -> dict[str, datasets.Dataset]:
    """The images without those that the run's start held out."""
    names = [name for name in ("train", "validation", "test") if name in splits]
    rows = inputs.regroup({name: input_hashes(splits[name], [image]) for name in names})
    if rows is None:
        return splits
    together = datasets.concatenate_datasets([splits[name] for name in names])
    ends = np.cumsum([len(splits[name]) for name in names])
    starts = dict(zip(names, [0, *ends[:-1].tolist()], strict=True))
    return {name: together.select([starts[s] + i for s, i in part]) for name, part in rows.items()}


def _size(config: Config, path: Path, training: datasets.Dataset, name: str) -> tuple[int, int] | None:
    """The height and width to resize pictures to; None keeps that of the images."""
    if config.data.size is not None:
        return config.data.size
    sizes = picture_sizes(training, config.data.image)
    if sizes is None or not len(sizes):
        return None
    is_one = bool((sizes == sizes[0]).all())
    patches = config.model.patches  # of initial weights
    if patches is None and config.resume and (path / MODEL_FILE).is_file():
        patches = runs.read_model_config(path).patches
    if not isinstance(patches, nn.Patches):
        size = choose_size(sizes)
    elif is_one and make_preprocess(path, patches).processor is not None:
        return None  # the model resizes them
    else:
        size = make_preprocess(path, patches).resized((patches.height, patches.width))
    if not is_one or size != tuple(sizes[0].tolist()):
        small, large = (describe_shape(side.tolist()) for side in (sizes.min(0), sizes.max(0)))
        found = f"of {small}" if is_one else f"from {small} to {large}"
        print(f"{name}: pictures {found} pixels, resized to {describe_shape(size)} (--data.size sets it)")
    return size


def _examples(
    dataset: datasets.Dataset,
    config: Config,
    class_names: list[str],
    size: tuple[int, int] | None,
    like: data.ImageClassificationExamples | None = None,
) -> data.ImageClassificationExamples:
    """The images and labels of a split; pictures get as many channels as the training images."""
    settings = config.data
    channels = settings.channels if like is None else _CHANNELS.get(like.images.shape[-1])
    return data.image_classification_examples(
        dataset,
        image=settings.image,
        label=settings.label,
        classes=class_names,
        size=size,
        channels=channels,
    )


def _test(task: _Task, params: Params, config: Config, path: Path) -> dict[str, float]:
    """Compares the model with an SVC on the test images; returns the results."""
    training, test = task.examples["train"], task.examples["test"]
    predicted = predict(task.model, params, test, config.train.batch_size, config.views)
    n = len(task.class_names)
    matrix = np.bincount(test.labels * n + predicted, minlength=n * n).reshape(n, n)
    note = viz.confusion_matrix(matrix, task.class_names, path / "confusion.png", title="test images")
    if note:
        print(note)
    svc_training = training
    if len(training) > SVC_EXAMPLES:
        chosen = np.random.default_rng(0).permutation(len(training))[:SVC_EXAMPLES]
        svc_training = data.ImageClassificationExamples(training.images[chosen], training.labels[chosen], n)
    svc_predicted = svc_predict(svc_training, test)
    correct = {
        "this model": int((predicted == test.labels).sum()),
        "SVC(gamma=0.001)": int((svc_predicted == test.labels).sum()),
    }
    print(f"\nof {len(test):,} test images")
    for (name, count), number in zip(correct.items(), (len(training), len(svc_training)), strict=True):
        print(f"  {name:16}  {count:,} correct, trained on {number:,} images")
    print(f"\nconfusion matrix: {path / 'confusion.png'}\n")
    accuracy = {name: count / len(test) for name, count in correct.items()}
    return {
        "test_accuracy": accuracy["this model"],
        "svc_accuracy": accuracy["SVC(gamma=0.001)"],
        "test_images": len(test),
    }
