"""Trains a classifier of texts, pairs or tokens, from scratch or fine-tuned, and tests it once."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.classification.config import Config
from experiments.classification.corpus import Corpus, load_corpus
from experiments.classification.predict import Batches
from experiments.classification.tasks import TASKS, Examples
from experiments.init_from import ENCODERS, start_run
from experiments.runner import Run, make_tokenizer, require_packages, start_on_main
from tfm_jax import data, nn, ops, train
from tfm_jax.data.splitting import describe_splits
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.types import Array, Key, Params, SumWeight, TextClassificationBatch

__all__ = ["main", "make_loss", "run_experiment"]

NAME = "classification"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment with these arguments, or those of the process."""
    command_line.run(run_experiment, Config, argv, name=NAME)


def run_experiment(config: Config) -> None:
    """Loads the data, trains and tests; writes everything into the run's directory."""
    run, initial_params = start_run(config, NAME, ENCODERS)
    config = run.config
    with run.setup():  # an error ends the process and leaves no run
        prepared = _prepare(run)
        task, model, corpus = TASKS[config.data.task], prepared.model, prepared.corpus
        loss_fn = make_loss(model, config.label_smoothing)
        optimizer, schedule = config.train.optimizer.build(config.model.d_model, config.train.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(model.init, optimizer, initial_params)
    batches = iter(prepared.batches["train"])
    metrics = task.metrics(
        model, prepared.in_order["validation"], corpus.splits["validation"], prepared.examples["validation"],
        corpus.class_names,
    )  # fmt: skip
    evaluate = run.compile_evaluation(loss_fn, prepared.batches["validation"], metrics)

    def flops(batch: Mapping[str, Array]) -> float:
        return step_flops(model, examples=config.train.batch_size, length=batch["tokens"].shape[1])

    baseline = start_on_main(task.baseline, corpus.splits["train"], corpus.splits["test"].texts)
    use = task.describe(config, corpus.class_names)
    with run.session(state, batches, corpus.digests, task=use, model=model.config) as (state, options):
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit=task.unit,
            flops_per_step=flops, **options,
        )  # fmt: skip
    params = run.end_training(result)
    if config.train.patience is not None:
        params = run.best_params()

    def test(params: Params) -> dict[str, float]:
        predicted = task.predict(model, params, prepared.in_order["test"], prepared.examples["test"])
        results = task.report(corpus.splits["test"], predicted, baseline(), corpus.class_names, run.path)
        print(f"\nconfusion matrix: {run.path / 'confusion.png'}\n")
        return results

    run.finish(run.on_main(test, params))


def make_loss(
    model: nn.Pure[nn.Classifier], label_smoothing: float
) -> train.LossFn[TextClassificationBatch[Array]]:
    """Makes the loss of a batch of labelled texts, pairs or tokens: cross-entropy.

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
        logits, extras = model.apply(
            params, batch["tokens"], batch["valid"], token_types=batch.get("token_types"), key=key,
            return_auxiliary=True,
        )  # fmt: skip
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
        if key is not None:
            loss = train.add_auxiliary(loss, extras["auxiliary"])
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (correct.sum(), weights.sum()), **extras["auxiliary"]}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """The data and the model: all that training does not change. ``in_order``: for process 0 alone."""

    corpus: Corpus
    model: nn.Pure[nn.Classifier]
    examples: dict[str, Examples]
    batches: dict[str, Batches]
    in_order: dict[str, Batches]


def _prepare(run: Run[Config]) -> _Prepared:
    require_packages("sklearn", "matplotlib", "tensorboardX")
    config, task = run.config, TASKS[run.config.data.task]
    corpus = load_corpus(config.data, NAME, run.inputs, resumes=config.resume)
    tokenizer = make_tokenizer(
        run.path,
        config.data.tokenizer,
        lambda: task.plain_texts(corpus.splits["train"].texts),
        config.data.vocab_size,
    )
    assert isinstance(tokenizer, data.JsonTokenizer)
    encoder = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or tokenizer.vocab_size)
    config, classes = dataclasses.replace(config, model=encoder), len(corpus.class_names)
    examples = {
        name: task.examples(labelled, tokenizer, classes, config) for name, labelled in corpus.splits.items()
    }
    lengths = np.concatenate([part.lengths for part in examples.values()])
    sides = math.lcm(8, run.parallel.mesh.shape["sequence"])
    shapes = data.choose_buckets(lengths, config.data.buckets, multiple_of=sides)
    size, seeds = config.train.batch_size, {"train": config.train.seed}

    def loader(name: str, **share: int) -> Batches:
        part = examples[name]
        return data.Loader(
            part, data.BucketBatchSampler(part.lengths, shapes, size, seeds.get(name)), **share
        )

    batches = {name: loader(name, **run.share) for name in ("train", "validation")}
    in_order = {name: loader(name) for name in ("validation", "test")}
    pooling = config.head_pooling
    model = nn.functionalize(nn.Classifier, encoder, classes, pooling, config.head_dropout_rate)
    run.shard(model.axes())
    run.check_inputs(model, shapes[-1])  # the longest text
    counts = describe_splits({name: len(part) for name, part in examples.items()})
    print(f"{NAME}: {task.unit}: {counts}; {classes} classes: {', '.join(corpus.class_names[:20])}")
    widths = ", ".join(str(width) for (width,) in shapes)
    print(
        f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {size} x {widths}", flush=True
    )
    return _Prepared(corpus, model, examples, batches, in_order)
