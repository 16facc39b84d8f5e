"""Trains a translation model and tests it once, on unseen pairs."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import command_line
from experiments.init_from import start_run
from experiments.runner import require_packages
from experiments.translation.config import Config
from experiments.translation.corpus import Pairs, load_pairs, make_shapes, make_tokenizer
from experiments.translation.decode import (
    TextMetrics,
    Translate,
    draw_attention,
    exact_match,
    make_translate,
    text_metrics,
)
from tfm_jax import data, nn, ops, train, viz
from tfm_jax.console import escape_unencodable
from tfm_jax.data.splitting import describe_splits, text_digest
from tfm_jax.ops import masks
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "run_experiment"]

NAME = "translation"


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
    run, initial_params = start_run(config, NAME, {nn.EncoderDecoder: lambda params: params})
    config = run.config
    with run.setup():
        task = _prepare(config, run.path)
    sources, references = (side[: config.data.decoded] for side in task.pairs["validation"])

    def evaluate(params: Params) -> dict[str, float]:
        return {"validation/exact_match": exact_match(task.translate(params, sources), references)}

    trained = run.fit(
        init=task.model.init,
        loss_fn=make_loss(task.model, config.label_smoothing),
        batches=iter(task.train_batches),
        d_model=config.model.d_model,
        initial_params=initial_params,
        digests=task.digests,
        validation=lambda: task.validation_batches,
        evaluate=evaluate if config.data.decoded else None,
        unit="tokens",
        curves=functools.partial(viz.curves, title=NAME),
    )
    params = trained.params if config.average == 1 else trained.average_params(config.average)
    run.finish(_test(task, params, run.path))


def make_loss(model: nn.Pure, label_smoothing: float) -> train.LossFn:
    """Makes the loss of a batch of pairs: cross-entropy of each next target token.

    Args:
      model: an ``nn.EncoderDecoder``.
      label_smoothing: in training (with a key).

    Returns:
      ``loss_fn(params, batch, key)``; without a key with the metric "accuracy" of next tokens.
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        labels, weights = batch["labels"], batch["weights"]
        mask = masks.padding(batch["valid"])
        logits = model.apply(params, batch["source"], batch["target"], source_mask=mask, key=key)
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
        if key is not None:
            return loss, {}
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return loss, {"accuracy": (correct.sum(), weights.sum())}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    pairs: dict[str, Pairs]
    tokenizer: data.Tokenizer
    model: nn.Pure
    train_batches: data.Loader
    validation_batches: data.Loader
    translate: Translate
    metrics: TextMetrics | None
    digests: dict[str, str]


def _prepare(config: Config, path: Path) -> _Task:
    require_packages("matplotlib")
    is_text = config.data.source != "dates"
    target = (config.data.pair or "").partition("-")[2]
    metrics = text_metrics(target) if is_text else None
    pairs = load_pairs(config.data)
    tokenizer = make_tokenizer(config.data, pairs["train"], path)
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    examples = {
        name: data.translation_examples(
            *pairs[name], tokenizer, max_length=config.data.max_length, vocab_size=vocab_size
        )
        for name in ("train", "validation")
    }
    parts = config.mesh.data * config.train.accumulate
    shapes, sizes = make_shapes(examples, config.data, config.train.batch_size, parts)
    seeds = {"train": config.train.seed, "validation": None}
    loaders = {
        name: data.Loader(part, data.BucketBatchSampler(part.lengths, shapes, sizes, seeds[name]))
        for name, part in examples.items()
    }
    model = nn.functionalize(nn.EncoderDecoder, dataclasses.replace(config.model, vocab_size=vocab_size))
    # raises if the longest pair does not fit the model
    longest = [jnp.zeros((1, side), jnp.int32) for side in shapes[-1]]
    jax.eval_shape(lambda key: model.apply(model.init(key), *longest), jax.random.key(0))
    translate = make_translate(model, tokenizer, shapes, sizes, config.search)
    _describe(pairs, tokenizer, shapes, sizes)
    digests = {name: text_digest(*sides) for name, sides in pairs.items()}
    return _Task(
        pairs, tokenizer, model, loaders["train"], loaders["validation"], translate, metrics, digests
    )


def _describe(
    pairs: Mapping[str, Pairs],
    tokenizer: data.Tokenizer,
    shapes: Sequence[tuple[int, int]],
    sizes: Sequence[int],
) -> None:
    counts = describe_splits({name: len(sources) for name, (sources, _) in pairs.items()})
    seen = set(zip(*pairs["train"], strict=True))
    repeated = sum(pair in seen for pair in zip(*pairs["test"], strict=True))
    print(f"{NAME}: pairs: {counts}; {repeated:,} of the test pairs are training pairs too")
    batches = ", ".join(f"{n} x {s}+{t}" for n, (s, t) in zip(sizes, shapes, strict=True))
    print(f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {batches}", flush=True)


def _test(task: _Task, params: Params, path: Path) -> dict[str, Any]:
    """Translates the test pairs, prints some of them and draws the attention of one; returns the results."""
    sources, references = task.pairs["test"]
    translations = task.translate(params, sources)
    drawn = _choose_to_draw(sources)
    wrong = [i for i, text in enumerate(translations) if text != references[i]]
    for i in dict.fromkeys([drawn, *range(4), *wrong[:3]]):
        if i < len(translations):
            print(
                f"\n  source     {sources[i]}\n  reference  {references[i]}\n  ours       {translations[i]}"
            )
    note = draw_attention(
        task.model, params, task.tokenizer, sources[drawn], translations[drawn], path / "attention.png"
    )
    print(f"\ncross-attention of the first translation: {path / 'attention.png'}")
    print(f"{note or ''}\n")
    results: dict[str, Any] = {
        "test_pairs": len(translations),
        "exact_match": exact_match(translations, references),
    }
    return results | (task.metrics(translations, references) if task.metrics is not None else {})


def _choose_to_draw(sources: Sequence[str]) -> int:
    """The index of a Chinese date with its weekday, or else of a text of about 40 characters."""
    return min(
        range(min(len(sources), 500)),
        key=lambda i: ("星期" not in sources[i], abs(len(sources[i]) - 40)),
    )
