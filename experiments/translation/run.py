"""Trains a translator and tests it, once, on pairs it has never seen."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import runner
from experiments.init_from import begin
from experiments.translation.config import Config, parse
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
from tfm_jax.ops import masks
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "run"]

NAME = "translation"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Raises:
        SystemExit: with one clear message, where what was asked for cannot be done.
    """
    runner.escape_unencodable()
    run(parse(argv))


def run(config: Config) -> None:
    """Loads, trains and tests; leaves everything in the run's directory.

    Args:
        config: the settings.

    Raises:
        SystemExit: as `main`.
    """
    here, given = begin(config, NAME, {nn.EncoderDecoder: lambda params: params})
    config = here.config
    with here.preparing():
        task = _prepare(config, here.path)
    few = [side[: config.data.decoded] for side in task.pairs["validation"]]
    evaluate = lambda params: {"validation/exact_match": exact_match(task.translate(params, few[0]), few[1])}
    trained = here.fit(
        init=task.model.init,
        loss_fn=make_loss(task.model, config.label_smoothing),
        batches=iter(task.train_batches),
        d_model=config.model.d_model,
        given=given,
        digests=task.digests,
        valid=lambda: task.valid_batches,
        evaluate=evaluate if config.data.decoded else None,
        unit="tokens",
        curves=functools.partial(viz.curves, title=NAME),
    )
    params = trained.params if config.average == 1 else trained.average_params(config.average)
    here.finish(_test(task, params, here.path))


def make_loss(model: nn.Pure, label_smoothing: float) -> train.LossFn:
    """The loss of a batch of pairs: cross-entropy of each next target token.

    Args:
        model: an ``nn.EncoderDecoder``.
        label_smoothing: in training, where there is a key.

    Returns:
        ``loss_fn(params, batch, key)``; without a key also the "accuracy", of next tokens given those before.
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        source, labels = batch["source"], batch["target_out"]
        mask = masks.padding(source != 0)
        logits = model.apply(params, source, batch["target_in"], source_mask=mask, key=key)
        smoothing = 0.0 if key is None else label_smoothing
        loss = ops.cross_entropy(logits, labels, ignore_index=0, label_smoothing=smoothing)
        if key is not None:
            return loss, {}
        counts = labels != 0
        right = counts & (jnp.argmax(logits, axis=-1) == labels)
        return loss, {"accuracy": (jnp.sum(right, dtype=jnp.float32), jnp.sum(counts, dtype=jnp.float32))}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """All that does not change while a model is trained."""

    pairs: dict[str, Pairs]
    tokenizer: data.Tokenizer
    model: nn.Pure
    train_batches: data.Loader
    valid_batches: data.Loader
    translate: Translate
    metrics: TextMetrics | None
    digests: dict[str, str]


def _prepare(config: Config, path: Path) -> _Task:
    runner.require("matplotlib")
    is_text = config.data.source != "dates"
    target = (config.data.pair or "").partition("-")[2]
    metrics = text_metrics(target) if is_text else None
    pairs = load_pairs(config.data)
    tokenizer = make_tokenizer(config.data, pairs["train"], path)
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    rows = {
        name: data.translation_rows(
            *pairs[name], tokenizer, max_length=config.data.max_length, vocab_size=vocab_size
        )
        for name in ("train", "validation")
    }
    parts = config.mesh.data * config.train.accumulate
    shapes, sizes = make_shapes(rows, config.data, config.train.batch_size, parts)
    seeds = {"train": config.train.seed, "validation": None}
    loaders = {
        name: data.Loader(part, data.BucketBatches(part.lengths, shapes, sizes, seeds[name]))
        for name, part in rows.items()
    }
    model = nn.functionalize(nn.EncoderDecoder, dataclasses.replace(config.model, vocab_size=vocab_size))
    # Does the longest fit the model?
    longest = [jnp.zeros((1, side), jnp.int32) for side in shapes[-1]]
    jax.eval_shape(lambda key: model.apply(model.init(key), *longest), jax.random.key(0))
    translate = make_translate(model, tokenizer, shapes, sizes, config.search)
    _describe(pairs, tokenizer, shapes, sizes)
    digests = {name: data.text_digest(*sides) for name, sides in pairs.items()}
    return _Task(
        pairs, tokenizer, model, loaders["train"], loaders["validation"], translate, metrics, digests
    )


def _describe(
    pairs: Mapping[str, Pairs],
    tokenizer: data.Tokenizer,
    shapes: Sequence[tuple[int, int]],
    sizes: Sequence[int],
) -> None:
    counts = data.describe_splits({name: len(sources) for name, (sources, _) in pairs.items()})
    seen = set(zip(*pairs["train"], strict=True))
    known = sum(pair in seen for pair in zip(*pairs["test"], strict=True))
    print(f"{NAME}: pairs: {counts}; {known:,} of the test pairs are training pairs too")
    batches = ", ".join(f"{n} x {s}+{t}" for n, (s, t) in zip(sizes, shapes, strict=True))
    print(f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {batches}", flush=True)


def _test(task: _Task, params: Params, path: Path) -> dict[str, Any]:
    """Translates the test pairs, shows some of them and one's attention; the figures."""
    sources, references = task.pairs["test"]
    ours = task.translate(params, sources)
    shown = _readable(sources)
    wrong = [i for i in range(len(ours)) if ours[i] != references[i]]
    for i in dict.fromkeys([shown, *range(4), *wrong[:3]]):
        if i < len(ours):
            print(f"\n  source     {sources[i]}\n  reference  {references[i]}\n  ours       {ours[i]}")
    note = draw_attention(
        task.model, params, task.tokenizer, sources[shown], ours[shown], path / "attention.png"
    )
    print(f"\nwhat the translation of the first looks at: {path / 'attention.png'}")
    print(f"{note or ''}\n")
    figures: dict[str, Any] = {"test_pairs": len(ours), "exact_match": exact_match(ours, references)}
    return figures | (task.metrics(ours, references) if task.metrics is not None else {})


def _readable(sources: Sequence[str]) -> int:
    """Which source to draw: a Chinese date with its weekday; else one that is neither short nor long."""
    rank = lambda i: ("星期" not in sources[i], abs(len(sources[i]) - 40))
    return min(range(min(len(sources), 500)), key=rank)
