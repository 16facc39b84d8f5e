"""Trains a classifier of texts, from scratch or from a trained encoder, and tests it once."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.classification.config import Config
from experiments.classification.corpus import Corpus, load_corpus, make_tokenizer, ngram_predict
from experiments.init_from import ENCODERS, begin, parse
from tfm_jax import data, nn, ops, train, viz
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "predict", "run"]

NAME = "classification"


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
    with ThreadPoolExecutor(1) as beside:
        ngrams = beside.submit(ngram_predict, task.corpus.splits["train"], task.corpus.splits["test"].texts)
        trained = here.fit(
            init=task.model.init,
            loss_fn=make_loss(task.model, config.label_smoothing),
            batches=iter(task.batches["train"]),
            d_model=config.model.d_model,
            given=given,
            digests=task.corpus.digests,
            valid=lambda: task.batches["validation"],
            unit="texts",
            curves=functools.partial(viz.curves, title=NAME),
        )
        params = trained.params if config.train.patience is None else trained.best_params()
        here.finish(_test(task, params, ngrams.result(), here.path))


def make_loss(model: nn.Pure, label_smoothing: float) -> train.LossFn:
    """The loss of a batch of labelled texts: cross-entropy.

    Args:
        model: an ``nn.Classifier``.
        label_smoothing: in training, where there is a key.

    Returns:
        ``loss_fn(params, batch, key)``, with the "accuracy".
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        labels, weight = batch["label"], batch["weight"]
        logits = model.apply(params, batch["tokens"], batch["valid"], key=key)
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, weights=weight, label_smoothing=smoothing)
        right = weight * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (right.sum(), weight.sum())}

    return loss_fn


def predict(model: nn.Pure, params: Params, batches: data.Loader, n: int) -> np.ndarray:
    """The class that the model finds most likely, for each text.

    Args:
        model: an ``nn.Classifier``.
        params: its parameters.
        batches: one pass over the texts.
        n: how many there are.

    Returns:
        int [n], in the order of the texts.
    """
    classify = jax.jit(lambda *inputs: jnp.argmax(model.apply(*inputs), axis=-1))
    found = np.zeros(n, np.int64)
    for batch in batches:
        real = batch["row"] >= 0
        found[batch["row"][real]] = np.asarray(classify(params, batch["tokens"], batch["valid"]))[real]
    return found


@dataclasses.dataclass(frozen=True)
class _Task:
    """All that does not change while a model is trained."""

    corpus: Corpus
    model: nn.Pure
    batches: dict[str, data.Loader]


def _prepare(config: Config, path: Path) -> _Task:
    runner.require("sklearn", "matplotlib", "tensorboardX")
    corpus = load_corpus(config.data)
    tokenizer = make_tokenizer(config.data, corpus.splits["train"].texts, path)
    encoder = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or tokenizer.vocab_size)
    classes = len(corpus.class_names)
    runner.check_classes(NAME, corpus.class_names, corpus.splits["train"].labels)
    rows = {
        name: data.labelled_rows(
            *labelled,
            tokenizer,
            classes,
            max_length=config.data.max_length,
            vocab_size=encoder.vocab_size,
        )
        for name, labelled in corpus.splits.items()
    }
    lengths = np.concatenate([part.lengths for part in rows.values()])
    shapes = data.choose_buckets(lengths, config.data.buckets)
    size, seeds = config.train.batch_size, {"train": config.train.seed}
    batches = {
        name: data.Loader(part, data.BucketBatches(part.lengths, shapes, size, seeds.get(name)))
        for name, part in rows.items()
    }
    model = nn.functionalize(nn.Classifier, encoder, classes, config.pooling, config.head_dropout_rate)
    longest = jnp.zeros((1, *shapes[-1]), jnp.int32)  # does it fit the model?
    jax.eval_shape(lambda key: model.apply(model.init(key), longest), jax.random.key(0))
    counts = data.describe_splits({name: len(part) for name, part in rows.items()})
    print(f"{NAME}: texts: {counts}; {classes} classes: {', '.join(corpus.class_names[:20])}")
    widths = ", ".join(str(width) for (width,) in shapes)
    print(
        f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {size} x {widths}", flush=True
    )
    return _Task(corpus, model, batches)


def _test(task: _Task, params: Params, ngrams: np.ndarray, path: Path) -> dict[str, Any]:
    """Reads the test texts, once, and shows some that were taken for another class; the figures."""
    (texts, labels), names = task.corpus.splits["test"], task.corpus.class_names
    ours, n = predict(task.model, params, task.batches["test"], len(texts)), len(names)
    matrix = np.bincount(labels * n + ours, minlength=n * n).reshape(n, n)
    note = viz.confusion_matrix(matrix, names, path / "confusion.png", title="test texts")
    print(note or "")
    for i in np.flatnonzero(ours != labels)[:5]:
        print(f"  {texts[i]:.60}  is {names[labels[i]]}, taken for {names[ours[i]]}")
    right = {"this model": int((ours == labels).sum()), "n-grams": int((ngrams == labels).sum())}
    for name, count in right.items():
        print(f"  {name:10}  {count:,} of {len(texts):,} test texts right")
    print(f"\nwhich class was taken for which: {path / 'confusion.png'}\n")
    return {
        "test_accuracy": right["this model"] / len(texts),
        "ngram_accuracy": right["n-grams"] / len(texts),
        "test_texts": len(texts),
    }
