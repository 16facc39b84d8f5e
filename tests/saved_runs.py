"""Run directories of tiny models that were never trained."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import optax

from tfm_jax import data, nn, train, values
from tfm_jax.runs import Origin, load_run, write_task
from tfm_jax.train.run_directory import BEST_METRIC

CONFIG = nn.Config(
    vocab_size=0, d_model=16, n_heads=2, d_ff=8, n_layers=1, positions=nn.Rope(), tie_embeddings=False
)


def load_run_once(directory, *, average=None, dtype=None):
    """``load_run``, which loads each run once."""
    return _load_run(str(directory), average, dtype)


@functools.cache
def _load_run(directory, average, dtype):
    return load_run(directory, average=average, dtype=dtype)


def make_run(
    path,
    module,
    config=CONFIG,
    *,
    scales=(1.0,),
    settings=None,
    ema=False,
    alphabet="abcdefgh",
    variants=(),
    task=None,
    losses=None,
):
    """Writes the directory of a run, with one checkpoint per scale of the parameters.

    With a ``runs.Task`` it is a run of this version; ``losses`` are of validation, by scale.
    """
    if task is not None:
        write_task(path, task, Origin.now({}, 0))
    tokenizer = data.char_tokenizer(alphabet)
    tokenizer.save(path)
    saved = {"model": values.to_dict(config, variants), "train": {"checkpoint_every": 1}, **(settings or {})}
    (path / "config.json").write_text(json.dumps(saved))
    model = nn.functionalize(module, dataclasses.replace(config, vocab_size=tokenizer.vocab_size))
    params = jax.jit(model.init)(jax.random.key(7))
    optimizer = optax.sgd(0.1)
    with train.Checkpoints(path / "checkpoints") as checkpoints:
        for step, scale in enumerate(scales):
            scaled = jax.tree.map(lambda p, scale=scale: p * scale, params)
            state = train.init_state(scaled, optimizer, jax.random.key(0), ema=ema)
            if ema:
                state = dataclasses.replace(state, ema=jax.tree.map(lambda p: p * 5, scaled))
            metrics = None if losses is None else {BEST_METRIC: losses[step]}
            state = dataclasses.replace(state, step=jnp.int32(step + 1))
            checkpoints.save(step + 1, state, metrics=metrics)
    return path
