"""Trains a text classifier, from scratch or from a trained encoder, and tests it once."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.classification.config import Config
from experiments.classification.corpus import Corpus, Labelled, load_corpus, ngram_predict
from experiments.init_from import ENCODERS, start_run
from experiments.inputs import hash_texts
from experiments.runner import Run, check_classes, make_tokenizer, require_packages, start_on_main
from tfm_jax import data, nn, ops, runs, train, viz
from tfm_jax.data.splitting import describe_splits
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.types import Array, Key, Params, SumWeight, TextClassificationBatch

__all__ = ["main", "make_loss", "predict", "run_experiment"]

NAME = "classification"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment with these arguments, or those of the process."""
    command_line.run(run_experiment, Config, argv, name=NAME)


def run_experiment(config: Config) -> None:
    """Loads the data, trains and tests; writes everything into the run's directory."""
    run, initial_params = start_run(config, NAME, ENCODERS)
    config = run.config
    with run.setup():  # an error ends the process and leaves no run
        task = _prepare(run)
        loss_fn = make_loss(task.model, config.label_smoothing)
        optimizer, schedule = config.train.optimizer.build(config.model.d_model, config.train.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(task.model.init, optimizer, initial_params)
    batches = iter(task.batches["train"])
    evaluate = run.compile_evaluation(loss_fn, task.batches["validation"])

    def flops(batch: Mapping[str, Array]) -> float:
        return step_flops(task.model, examples=config.train.batch_size, length=batch["tokens"].shape[1])

    ngrams = start_on_main(ngram_predict, task.corpus.splits["train"], task.corpus.splits["test"].texts)
    use = runs.Task(
        task="text-classification",
        labels=tuple(task.corpus.class_names),
        pooling=config.pooling,
        head_dropout_rate=config.head_dropout_rate,
        max_length=config.data.max_length,
    )
    model, digests = task.model.config, task.corpus.digests
    with run.session(state, batches, digests, task=use, model=model) as (state, options):
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit="texts",
            flops_per_step=flops, **options,
        )  # fmt: skip
    params = run.end_training(result)
    if config.train.patience is not None:
        params = run.best_params()
    run.finish(run.on_main(lambda params: _test(task, params, ngrams(), run.path), params))


def make_loss(
    model: nn.Pure[nn.Classifier], label_smoothing: float
) -> train.LossFn[TextClassificationBatch[Array]]:
    """Makes the loss of a batch of labelled texts: cross-entropy.

    Args:
      model: the classifier.
      label_smoothing: in training (with a key).

    Returns:
      ``loss_fn(params, batch, key)``, with the metric "accuracy" and the model's auxiliary losses: metrics of
      their own, and with a key a part of the loss.
    """

    def loss_fn(
        params: Params, batch: TextClassificationBatch[Array], key: Key | None
    ) -> tuple[SumWeight, dict[str, SumWeight]]:
        labels, weights = batch["labels"], batch["weights"]
        logits, extras = model.apply(params, batch["tokens"], batch["valid"], key=key, return_auxiliary=True)
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
        if key is not None:
            loss = train.add_auxiliary(loss, extras["auxiliary"])
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (correct.sum(), weights.sum()), **extras["auxiliary"]}

    return loss_fn


def predict(
    model: nn.Pure[nn.Classifier],
    params: Params,
    batches: data.Loader[TextClassificationBatch[np.ndarray]],
    n: int,
) -> np.ndarray:
    """Predicts the class of each text.

    Args:
      model: the classifier.
      params: its parameters.
      batches: one pass over the texts.
      n: number of texts.

    Returns:
      int [n], in the order of the texts.
    """
    classify = jax.jit(lambda *inputs: jnp.argmax(model.apply(*inputs), axis=-1))
    predicted = np.zeros(n, np.int64)
    for batch in batches:
        assert "index" in batch  # a pass in order
        real = batch["index"] >= 0
        predicted[batch["index"][real]] = np.asarray(classify(params, batch["tokens"], batch["valid"]))[real]
    return predicted


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    corpus: Corpus
    model: nn.Pure[nn.Classifier]
    batches: dict[str, data.Loader[TextClassificationBatch[np.ndarray]]]


def _prepare(run: Run[Config]) -> _Task:
    require_packages("sklearn", "matplotlib", "tensorboardX")
    config = run.config
    corpus = _without_held_out(run, load_corpus(config.data))
    texts, settings = corpus.splits["train"].texts, config.data
    tokenizer = make_tokenizer(run.path, settings.tokenizer, lambda: texts, settings.vocab_size)
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
    sides = math.lcm(8, run.parallel.mesh.shape["sequence"])
    shapes = data.choose_buckets(lengths, config.data.buckets, multiple_of=sides)
    size, seeds = config.train.batch_size, {"train": config.train.seed}
    batches = {
        name: data.Loader(
            part,
            data.BucketBatchSampler(part.lengths, shapes, size, seeds.get(name)),
            **({} if name == "test" else run.share),  # process 0 alone tests
        )
        for name, part in examples.items()
    }
    model = nn.functionalize(nn.Classifier, encoder, classes, config.pooling, config.head_dropout_rate)
    run.shard(model.axes())
    run.check_inputs(model, shapes[-1])  # the longest text
    counts = describe_splits({name: len(part) for name, part in examples.items()})
    print(f"{NAME}: texts: {counts}; {classes} classes: {', '.join(corpus.class_names[:20])}")
    widths = ", ".join(str(width) for (width,) in shapes)
    print(
        f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {size} x {widths}", flush=True
    )
    return _Task(corpus, model, batches)


def _without_held_out(run: Run[Config], corpus: Corpus) -> Corpus:
    """The texts without those that the run's start held out."""
    splits, settings = corpus.splits, run.config.data
    files = [name for name in ("validation", "test") if getattr(settings, name)]
    rows = run.inputs.regroup({name: hash_texts(part.texts) for name, part in splits.items()}, files)
    if rows is None:
        return corpus
    found = {
        name: Labelled(
            [splits[s].texts[i] for s, i in part], np.array([splits[s].labels[i] for s, i in part])
        )
        for name, part in rows.items()
    }
    return corpus._replace(splits=found)


def _test(task: _Task, params: Params, ngrams: np.ndarray, path: Path) -> dict[str, float]:
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
