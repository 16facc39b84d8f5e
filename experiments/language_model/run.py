"""Trains a language model and measures its bits per byte on validation texts."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import command_line
from experiments.init_from import start_run
from experiments.language_model.bits import bits_per_byte, make_measure, xz_bits_per_byte
from experiments.language_model.config import Config
from experiments.language_model.corpus import load_texts, make_tokenizer
from experiments.runner import require_packages
from tfm_jax import data, generate, nn, ops, train, viz
from tfm_jax.console import escape_unencodable
from tfm_jax.ops import masks
from tfm_jax.types import Batch, Key, Params, SumWeight

__all__ = ["main", "make_loss", "run_experiment"]

NAME = "language_model"


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
    """Loads the data, trains and measures; writes everything into the run's directory.

    Args:
      config: the settings.

    Raises:
      SystemExit: as `main`.
    """
    run, initial_params = start_run(config, NAME, {nn.Decoder: lambda params: params})
    config = run.config
    with run.setup():
        task = _prepare(config, run.path)
    loss_fn = make_loss(task.model, bits_per_byte(1.0, task.n_bytes) * task.validation.n_targets)
    batch_size = config.train.batch_size
    shuffled = data.UniformBatchSampler(len(task.training), batch_size, config.train.seed)

    def in_order(sequences: data.PackedSequences) -> data.Loader:
        return data.Loader(sequences, data.UniformBatchSampler(len(sequences), batch_size))

    with ThreadPoolExecutor(1) as executor:
        xz = executor.submit(xz_bits_per_byte, *task.texts)
        trained = run.fit(
            init=task.model.init,
            loss_fn=loss_fn,
            batches=iter(data.Loader(task.training, shuffled)),
            d_model=config.model.d_model,
            initial_params=initial_params,
            digests={
                name: data.text_digest(part)
                for name, part in zip(("train", "validation"), task.texts, strict=True)
            },
            validation=lambda: in_order(task.validation),
            unit="tokens",
            curves=functools.partial(viz.curves, title=NAME),
        )
    measure = make_measure(loss_fn, run.parallel)
    nats, tokens = measure(trained.params, in_order(task.overlapping_validation))
    text = _sample(config, task, trained.params)
    (run.path / "sample.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\n")
    run.finish(
        {
            "validation_loss": nats / tokens,
            "bits_per_byte": bits_per_byte(nats, task.n_bytes),
            "xz_bits_per_byte": xz.result(),
            "validation_tokens": int(tokens),
            "validation_bytes": task.n_bytes,
        }
    )


def make_loss(model: nn.Pure, bits_per_nat: float) -> train.LossFn:
    """Makes the loss of a batch of packed texts: cross-entropy of each next token.

    Args:
      model: an ``nn.Decoder``.
      bits_per_nat: the factor from the mean loss of the validation tokens to bits per byte.

    Returns:
      ``loss_fn(params, batch, key)``; without a key with the metric "bits_per_byte".
    """

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict[str, SumWeight]]:
        mask, positions = masks.segments(batch["segment_ids"]), batch["positions"]
        hidden = model.bind(params).hidden(batch["tokens"], mask, positions=positions, key=key)
        kernel = model.bind(params).unembedding().astype(hidden.dtype)
        nats, tokens = ops.linear_cross_entropy(hidden, kernel, batch["labels"], weights=batch["weights"])
        return (nats, tokens), {} if key is not None else {"bits_per_byte": (nats * bits_per_nat, tokens)}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    texts: tuple[list[str], list[str]]
    n_bytes: int
    tokenizer: data.Tokenizer
    model: nn.Pure
    training: data.PackedSequences
    validation: data.PackedSequences
    overlapping_validation: data.PackedSequences


def _prepare(config: Config, path: Path) -> _Task:
    require_packages("matplotlib")
    settings = config.data
    texts = load_texts(settings)
    tokenizer = make_tokenizer(settings, texts[0], path)
    _prompt(config, tokenizer)  # raises if it does not fit the model
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    model = nn.functionalize(nn.Decoder, dataclasses.replace(config.model, vocab_size=vocab_size))
    # raises if a sequence does not fit the model
    tokens = jnp.zeros((1, settings.length), jnp.int32)
    jax.eval_shape(lambda key: model.apply(model.init(key), tokens), jax.random.key(0))
    pack = functools.partial(
        data.language_model_examples, tokenizer=tokenizer, length=settings.length, vocab_size=vocab_size
    )
    task = _Task(
        texts=texts,
        n_bytes=_count_bytes(texts[1]),
        tokenizer=tokenizer,
        model=model,
        training=pack(texts[0]),
        validation=pack(texts[1]),
        overlapping_validation=pack(texts[1], overlap=settings.overlap),
    )
    _print_summary(task)
    return task


def _print_summary(task: _Task) -> None:
    splits = zip(("train", "validation"), task.texts, (task.training, task.validation), strict=True)
    total = sum(map(_count_bytes, task.texts))
    for name, texts, sequences in splits:
        n_bytes = _count_bytes(texts)
        share = f"({100 * n_bytes / total:.1f} %)"
        print(
            f"{NAME}: {name}: {len(texts):,} texts, {n_bytes:,} bytes {share}, {sequences.n_targets:,} tokens"
        )
    each = _count_bytes(task.texts[0]) / task.training.n_targets
    print(
        f"{NAME}: {task.tokenizer.vocab_size:,} tokens in the vocabulary, {each:.3g} bytes each", flush=True
    )


def _count_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _prompt(config: Config, tokenizer: data.Tokenizer) -> list[int]:
    """The token ids of the prompt; a ValueError if they do not leave room for a sample."""
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    prompt, length = [*bos, *tokenizer.encode(config.sample.prompt)], config.data.length
    if not 0 < len(prompt) < length:
        raise ValueError(
            f"sample.prompt: got {len(prompt)} tokens; wanted at least 1 and fewer than "
            f"data.length={length}. Give another --sample.prompt"
        )
    return prompt


def _sample(config: Config, task: _Task, params: Params) -> str:
    """The prompt and its continuation by the model."""
    prompt = _prompt(config, task.tokenizer)
    continuation = generate.sample(
        task.model,
        params,
        jnp.asarray([prompt]),
        key=jax.random.key(config.train.seed),
        max_length=min(config.sample.tokens, config.data.length - len(prompt)),
        processors=config.sample.processors(),
        eos_id=task.tokenizer.eos_id,
    )
    return config.sample.prompt + task.tokenizer.decode(continuation.tokens[0])
