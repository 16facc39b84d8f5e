"""Trains a language model and measures its bits per byte on validation texts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.init_from import start_run
from experiments.inputs import RunInputs
from experiments.language_model.bits import bits_per_byte, make_measure, xz_bits_per_byte
from experiments.language_model.config import Config
from experiments.language_model.corpus import load_texts
from experiments.runner import make_tokenizer, require_packages, start_on_main
from tfm_jax import data, generate, nn, processes, runs, train
from tfm_jax.data.splitting import text_digest
from tfm_jax.ops import masks
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.types import Array, Key, LanguageModelBatch, Params, SumWeight

__all__ = ["main", "make_loss", "run_experiment"]

NAME = "language_model"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment with these arguments, or those of the process."""
    command_line.run(run_experiment, Config, argv, name=NAME)


def run_experiment(config: Config) -> None:
    """Loads the data, trains and measures; writes everything into the run's directory."""
    run, initial_params = start_run(config, NAME, (nn.Decoder,))
    config = run.config
    with run.setup():  # an error ends the process and leaves no run
        task = _prepare(config, run.path, run.inputs)
        run.shard(task.model.axes())
        run.check_inputs(task.model, (config.data.length,))
        loss_fn = make_loss(task.model, bits_per_byte(1.0, task.n_bytes) * task.validation.n_targets)
        optimizer, schedule = config.train.optimizer.build(config.model.d_model, config.train.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(task.model.init, optimizer, initial_params)
    size, seed = config.train.batch_size, config.train.seed
    sampler = data.UniformBatchSampler(len(task.training), size, seed)
    batches = iter(data.Loader(task.training, sampler, **run.share))
    evaluate = run.compile_evaluation(loss_fn, _in_order(task.validation, size, run.share))
    digests = {"train": text_digest(task.texts[0]), "validation": text_digest(task.texts[1])}
    xz = start_on_main(xz_bits_per_byte, *task.texts)
    use, model = runs.Task(task="text-generation", max_length=config.data.length), task.model.config
    with run.session(state, batches, digests, task=use, model=model) as (state, options):
        flops = step_flops(task.model, examples=size, length=config.data.length)
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit="tokens",
            flops_per_step=flops, **options,
        )  # fmt: skip
    params = run.end_training(result)
    nats, tokens = make_measure(loss_fn, run.parallel)(
        params, _in_order(task.overlapping_validation, size, run.share)
    )  # fmt: skip
    run.on_main(lambda params: _write_sample(config, task, params, run.path), params)
    run.finish(
        {
            "validation_loss": nats / tokens,
            "bits_per_byte": bits_per_byte(nats, task.n_bytes),
            "xz_bits_per_byte": processes.from_main("xz", xz),
            "validation_tokens": int(tokens),
            "validation_bytes": task.n_bytes,
        }
    )


def make_loss(model: nn.Pure[nn.Decoder], bits_per_nat: float) -> train.LossFn[LanguageModelBatch[Array]]:
    """Makes the loss of a batch of packed texts: cross-entropy of each next token.

    Args:
      model: the language model.
      bits_per_nat: the factor from the mean loss of the validation tokens to bits per byte.

    Returns:
      ``loss_fn(params, batch, key)``, with the model's auxiliary losses: metrics of their own, and with a key
      a part of the loss. Without a key with the metric "bits_per_byte".
    """

    def loss_fn(
        params: Params, batch: LanguageModelBatch[Array], key: Key | None
    ) -> tuple[SumWeight, dict[str, SumWeight]]:
        mask, positions, weights = masks.segments(batch["segment_ids"]), batch["positions"], batch["weights"]
        decoder = model.bind(params)
        hidden, extras = decoder.hidden(
            batch["tokens"], mask, positions=positions, key=key, return_auxiliary=True
        )
        auxiliary = extras.get("auxiliary", {})
        nats, tokens = decoder.cross_entropy(hidden, batch["labels"], weights=weights)
        if key is not None:
            return train.add_auxiliary((nats, tokens), auxiliary), auxiliary
        return (nats, tokens), {"bits_per_byte": (nats * bits_per_nat, tokens), **auxiliary}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    texts: tuple[list[str], list[str]]
    n_bytes: int
    tokenizer: data.Tokenizer
    model: nn.Pure[nn.Decoder]
    training: data.PackedSequences
    validation: data.PackedSequences
    overlapping_validation: data.PackedSequences


def _prepare(config: Config, path: Path, inputs: RunInputs) -> _Task:
    require_packages("matplotlib")
    settings = config.data
    texts = load_texts(settings, inputs)
    tokenizer = make_tokenizer(path, settings.tokenizer, lambda: texts[0], settings.vocab_size)
    _prompt(config, tokenizer)  # raises if it does not fit the model
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    model = nn.functionalize(nn.Decoder, dataclasses.replace(config.model, vocab_size=vocab_size))
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


def _in_order(
    sequences: data.PackedSequences, batch_size: int, share: Mapping[str, int]
) -> data.Loader[LanguageModelBatch[np.ndarray]]:
    return data.Loader(sequences, data.UniformBatchSampler(len(sequences), batch_size), **share)


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
    ids, length = tokenizer.encode_batch([config.sample.prompt])[0], config.data.length
    prompt = [*bos, *ids.tolist()]
    if not 0 < len(prompt) < length:
        raise ValueError(
            f"--sample.prompt: got {len(prompt)} tokens; wanted at least 1 and fewer than --data.length "
            f"{length}. Give another --sample.prompt"
        )
    return prompt


def _sample(config: Config, task: _Task, params: Params) -> str:
    """The prompt and its continuation by the model."""
    prompt = _prompt(config, task.tokenizer)
    eos_id = task.tokenizer.eos_id
    generation = generate.GenerationConfig(
        () if eos_id is None else (eos_id,),
        max_length=min(config.sample.tokens, config.data.length - len(prompt)),
        processors=config.sample.processors(),
    )
    continuation = generate.sample(
        task.model, params, jnp.asarray([prompt]), generation, key=jax.random.key(config.train.seed)
    )
    return config.sample.prompt + task.tokenizer.decode(np.asarray(continuation.tokens[0]))


def _write_sample(config: Config, task: _Task, params: Params, path: Path) -> None:
    text = _sample(config, task, params)
    (path / "sample.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\n")
