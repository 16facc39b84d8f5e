"""Trains a text classifier, from scratch or from a trained encoder, and tests it once."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.classification.config import Config
from experiments.classification.corpus import Corpus, load_corpus, make_tokenizer, ngram_predict
from experiments.init_from import ENCODERS, start_run
from experiments.runner import check_classes, require_packages
from tfm_jax import data, nn, ops, train, viz
from tfm_jax.console import escape_unencodable
from tfm_jax.data.splitting import describe_splits
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "predict", "run_experiment"]

NAME = "classification"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line.

    Args:
      argv: the arguments; None takes those of the process.

    Raises:
      SystemExit: with one message on an error.
    """
    escape_unencodable()
    run_experiment(command_line.parse(Config, argv, prog=f"python -m experiments.{NAME}"))


def run_experiment(config: Config) -> None:
    """Loads the data, trains and tests; writes everything into the run's directory.

    Args:
      config: the settings.

    Raises:
      SystemExit: as `main`.
    """
    run, initial_params = start_run(config, NAME, ENCODERS)
    config = run.config
    with run.setup():
        task = _prepare(config, run.path)
    with ThreadPoolExecutor(1) as executor:
        ngrams = executor.submit(ngram_predict, task.corpus.splits["train"], task.corpus.splits["test"].texts)
        trained = run.fit(
            init=task.model.init,
            loss_fn=make_loss(task.model, config.label_smoothing),
            batches=iter(task.batches["train"]),
            d_model=config.model.d_model,
            initial_params=initial_params,
            digests=task.corpus.digests,
            validation=lambda: task.batches["validation"],
            unit="texts",
            curves=functools.partial(viz.curves, title=NAME),
        )
        params = trained.params if config.train.patience is None else trained.best_params()
        run.finish(_test(task, params, ngrams.result(), run.path))


def make_loss(model: nn.Pure, label_smoothing: float) -> train.LossFn:
    """Makes the loss of a batch of labelled texts: cross-entropy.

    Args:
      model: an ``nn.Classifier``.
      label_smoothing: in training (with a key).

    Returns:
      ``loss_fn(params, batch, key)``, with the metric "accuracy".
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        labels, weights = batch["labels"], batch["weights"]
        logits = model.apply(params, batch["tokens"], batch["valid"], key=key)
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (correct.sum(), weights.sum())}

    return loss_fn


def predict(model: nn.Pure, params: Params, batches: data.Loader, n: int) -> np.ndarray:
    """Predicts the class of each text.

    Args:
      model: an ``nn.Classifier``.
      params: its parameters.
      batches: one pass over the texts.
      n: number of texts.

    Returns:
      int [n], in the order of the texts.
    """
    classify = jax.jit(lambda *inputs: jnp.argmax(model.apply(*inputs), axis=-1))
    predicted = np.zeros(n, np.int64)
    for batch in batches:
        real = batch["index"] >= 0
        predicted[batch["index"][real]] = np.asarray(classify(params, batch["tokens"], batch["valid"]))[real]
    return predicted


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    corpus: Corpus
    model: nn.Pure
    batches: dict[str, data.Loader]


def _prepare(config: Config, path: Path) -> _Task:
    require_packages("sklearn", "matplotlib", "tensorboardX")
    corpus = load_corpus(config.data)
    tokenizer = make_tokenizer(config.data, corpus.splits["train"].texts, path)
    encoder = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or tokenizer.vocab_size)
    classes = len(corpus.class_names)
    check_classes(NAME, corpus.class_names, corpus.splits["train"].labels)
    examples = {
        name: data.text_classification_examples(
            *labelled,
            tokenizer,
            classes,
            max_length=config.data.max_length,
            vocab_size=encoder.vocab_size,
        )
        for name, labelled in corpus.splits.items()
    }
    lengths = np.concatenate([part.lengths for part in examples.values()])
    shapes = data.choose_buckets(lengths, config.data.buckets)
    size, seeds = config.train.batch_size, {"train": config.train.seed}
    batches = {
        name: data.Loader(part, data.BucketBatchSampler(part.lengths, shapes, size, seeds.get(name)))
        for name, part in examples.items()
    }
    model = nn.functionalize(nn.Classifier, encoder, classes, config.pooling, config.head_dropout_rate)
    longest = jnp.zeros((1, *shapes[-1]), jnp.int32)  # raises if it does not fit the model
    jax.eval_shape(lambda key: model.apply(model.init(key), longest), jax.random.key(0))
    counts = describe_splits({name: len(part) for name, part in examples.items()})
    print(f"{NAME}: texts: {counts}; {classes} classes: {', '.join(corpus.class_names[:20])}")
    widths = ", ".join(str(width) for (width,) in shapes)
    print(
        f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {size} x {widths}", flush=True
    )
    return _Task(corpus, model, batches)


def _test(task: _Task, params: Params, ngrams: np.ndarray, path: Path) -> dict[str, Any]:
    """Tests the model and prints some of its errors; returns the results."""
    (texts, labels), names = task.corpus.splits["test"], task.corpus.class_names
    predicted, n = predict(task.model, params, task.batches["test"], len(texts)), len(names)
    matrix = np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)
    note = viz.confusion_matrix(matrix, names, path / "confusion.png", title="test texts")
    print(note or "")
    for i in np.flatnonzero(predicted != labels)[:5]:
        print(f"  {texts[i]:.60}  is {names[labels[i]]}, predicted {names[predicted[i]]}")
    correct = {"this model": int((predicted == labels).sum()), "n-grams": int((ngrams == labels).sum())}
    for name, count in correct.items():
        print(f"  {name:10}  {count:,} of {len(texts):,} test texts correct")
    print(f"\nconfusion matrix: {path / 'confusion.png'}\n")
    return {
        "test_accuracy": correct["this model"] / len(texts),
        "ngram_accuracy": correct["n-grams"] / len(texts),
        "test_texts": len(texts),
    }
