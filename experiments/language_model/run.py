"""Trains a language model on texts, and says what a byte of other texts costs it."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import runner
from experiments.init_from import begin, parse
from experiments.language_model.bits import bits_per_byte, make_measure, xz_bits_per_byte
from experiments.language_model.config import Config
from experiments.language_model.corpus import load_texts, make_tokenizer
from tfm_jax import data, generate, nn, ops, train, viz
from tfm_jax.ops import masks
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "run"]

NAME = "language_model"


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
    """Loads, trains and measures; leaves everything in the run's directory.

    Args:
        config: the settings.

    Raises:
        SystemExit: as `main`.
    """
    here, given = begin(config, NAME, {nn.Decoder: lambda params: params})
    config = here.config
    with here.preparing():
        task = _prepare(config, here.path)
    loss_fn = make_loss(task.model, bits_per_byte(1.0, task.n_bytes) * task.rows.n_targets)
    batch_size = config.train.batch_size
    order = data.UniformBatches(len(task.train_rows), batch_size, config.train.seed)
    in_order = lambda rows: data.Loader(rows, data.UniformBatches(len(rows), batch_size))
    with ThreadPoolExecutor(1) as beside:
        xz = beside.submit(xz_bits_per_byte, *task.texts)
        trained = here.fit(
            init=task.model.init,
            loss_fn=loss_fn,
            batches=iter(data.Loader(task.train_rows, order)),
            d_model=config.model.d_model,
            given=given,
            digests={
                name: data.text_digest(part)
                for name, part in zip(("train", "validation"), task.texts, strict=True)
            },
            valid=lambda: in_order(task.rows),
            unit="tokens",
            curves=functools.partial(viz.curves, title=NAME),
        )
    nats, tokens = make_measure(loss_fn, here.parallel)(trained.params, in_order(task.overlapping_rows))
    text = _sample(config, task, trained.params)
    (here.path / "sample.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\n")
    here.finish(
        {
            "validation_loss": nats / tokens,
            "bits_per_byte": bits_per_byte(nats, task.n_bytes),
            "xz_bits_per_byte": xz.result(),
            "validation_tokens": int(tokens),
            "validation_bytes": task.n_bytes,
        }
    )


def make_loss(model: nn.Pure, bits_per_nat: float) -> train.LossFn:
    """The loss of a batch of packed texts: cross-entropy of each next token.

    Args:
        model: an ``nn.Decoder``.
        bits_per_nat: what turns the mean loss of the validation tokens into bits per byte.

    Returns:
        ``loss_fn(params, batch, key)``; without a key also the "bits_per_byte".
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        mask, positions = masks.segments(batch["segment_ids"]), batch["positions"]
        hidden = model.apply(params, batch["tokens"], mask, positions=positions, key=key, method="hidden")
        kernel = model.apply(params, method="unembedding").astype(hidden.dtype)
        nats, tokens = ops.linear_cross_entropy(hidden, kernel, batch["labels"], weights=batch["weights"])
        return (nats, tokens), {} if key is not None else {"bits_per_byte": (nats * bits_per_nat, tokens)}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """All that does not change while a model is trained; rows without a name are those to validate on."""

    texts: tuple[list[str], list[str]]
    n_bytes: int
    tokenizer: data.Tokenizer
    model: nn.Pure
    train_rows: data.PackedRows
    rows: data.PackedRows
    overlapping_rows: data.PackedRows


def _prepare(config: Config, path: Path) -> _Task:
    runner.require("matplotlib")
    settings = config.data
    texts = load_texts(settings)
    tokenizer = make_tokenizer(settings, texts[0], path)
    _prompt(config, tokenizer)  # can the model write on from it?
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    model = nn.functionalize(nn.Decoder, dataclasses.replace(config.model, vocab_size=vocab_size))
    # Does a row fit the model?
    row = jnp.zeros((1, settings.length), jnp.int32)
    jax.eval_shape(lambda key: model.apply(model.init(key), row), jax.random.key(0))
    pack = functools.partial(
        data.language_model_rows, tokenizer=tokenizer, length=settings.length, vocab_size=vocab_size
    )
    task = _Task(
        texts=texts,
        n_bytes=_count(texts[1]),
        tokenizer=tokenizer,
        model=model,
        train_rows=pack(texts[0]),
        rows=pack(texts[1]),
        overlapping_rows=pack(texts[1], overlap=settings.overlap),
    )
    parts = zip(("train", "validation"), texts, (task.train_rows, task.rows), strict=True)
    total = sum(map(_count, texts))
    for name, part, rows in parts:
        share = f"({100 * _count(part) / total:.1f} %)"
        print(
            f"{NAME}: {name}: {len(part):,} texts, {_count(part):,} bytes {share}, {rows.n_targets:,} tokens"
        )
    each = _count(texts[0]) / task.train_rows.n_targets
    print(f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary, {each:.3g} bytes each", flush=True)
    return task


def _count(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _prompt(config: Config, tokenizer: data.Tokenizer) -> list[int]:
    """The ids of what the sample begins with; a ValueError where the model could not write on from them."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    prompt, length = [*begin, *tokenizer.encode(config.sample.prompt)], config.data.length
    if not 0 < len(prompt) < length:
        raise ValueError(
            f"sample.prompt: got {len(prompt)} tokens; wanted at least 1 and fewer than "
            f"data.length={length}. Give another --sample.prompt"
        )
    return prompt


def _sample(config: Config, task: _Task, params: Params) -> str:
    """A text that the model writes on from the prompt."""
    prompt = _prompt(config, task.tokenizer)
    written = generate.sample(
        task.model,
        params,
        jnp.asarray([prompt]),
        key=jax.random.key(config.train.seed),
        max_length=min(config.sample.tokens, config.data.length - len(prompt)),
        processors=config.sample.processors(),
        eos_id=task.tokenizer.eos_id,
    )
    return config.sample.prompt + task.tokenizer.decode(written.tokens[0])
