"""Small random models whose tokens vary, and their plain use, for all tests of decoding."""

import contextlib
import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import nn

V = 9
CONFIG = nn.Config(vocab_size=V, d_model=12, n_heads=2, d_ff=10, n_layers=2)


@functools.cache
def build(module, **fields):
    model = nn.functionalize(module, dataclasses.replace(CONFIG, **fields))
    # Large parameters: the tokens then vary instead of repeating.
    return model, jax.tree.map(lambda p: p * 3.0, jax.jit(model.init)(jax.random.key(2)))


@functools.cache
def _forward(model):
    return jax.jit(lambda params, *inputs: jax.nn.log_softmax(model.apply(params, *inputs)))


def log_probs(model, params, prompt, rows, source=None, length=12):
    """The log-probabilities [n, M] of the tokens of rows [n, M] after one prompt [P], by a forward pass."""
    rows = np.asarray(rows)
    whole = np.concatenate([np.tile(np.asarray(prompt)[None], (len(rows), 1)), rows], axis=1)
    padded = np.pad(whole, ((0, 0), (0, length - whole.shape[1])))
    inputs = (jnp.asarray(padded, jnp.int32),)
    if source is not None:
        inputs = (jnp.tile(jnp.asarray(source)[None], (len(rows), 1)), *inputs)
    P = len(prompt)
    chances = np.asarray(_forward(model)(params, *inputs))[:, P - 1 : whole.shape[1] - 1]
    return np.take_along_axis(chances, rows[..., None], axis=2)[..., 0]


def next_log_probs(model, params, prompt, source=None, length=12):
    """The log-probabilities [V] of the token after a prompt [P]."""
    everything = np.arange(V)[:, None]
    return log_probs(model, params, prompt, everything, source, length)[:, 0]


@contextlib.contextmanager
def count_compilations():
    """The names of the programs that are compiled meanwhile."""
    names, handler = [], logging.Handler()
    handler.emit = lambda record: names.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    try:
        yield names
    finally:
        logger.removeHandler(handler)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(3, V, shape), jnp.int32)
