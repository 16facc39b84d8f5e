"""Small random models with varied outputs, and reference log-probabilities by forward passes."""

import contextlib
import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import generate, nn

V = 9
CONFIG = nn.Config(vocab_size=V, d_model=12, n_heads=2, d_ff=10, n_layers=2)


def config(max_length, **fields):
    """A config with EOS 2, padding 0 and start token 1."""
    fields = {"eos_ids": (2,), "pad_id": 0, "start_id": 1} | fields
    return generate.GenerationConfig(max_length=max_length, **fields)


@functools.cache
def build(module, **fields):
    model = nn.functionalize(module, dataclasses.replace(CONFIG, **fields))
    # Large parameters make the tokens vary.
    return model, jax.tree.map(lambda p: p * 3.0, jax.jit(model.init)(jax.random.key(2)))


@functools.cache
def _forward(model):
    return jax.jit(lambda params, *inputs: jax.nn.log_softmax(model.apply(params, *inputs)))


def log_probs(model, params, prompt, outputs, source=None, length=12):
    """The log-probabilities [n, M] of the tokens of outputs [n, M] after one prompt [P]."""
    outputs = np.asarray(outputs)
    tokens = np.concatenate([np.tile(np.asarray(prompt)[None], (len(outputs), 1)), outputs], axis=1)
    padded = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    inputs = (jnp.asarray(padded, jnp.int32),)
    if source is not None:
        inputs = (jnp.tile(jnp.asarray(source)[None], (len(outputs), 1)), *inputs)
    P = len(prompt)
    found = np.asarray(_forward(model)(params, *inputs))[:, P - 1 : tokens.shape[1] - 1]
    return np.take_along_axis(found, outputs[..., None], axis=2)[..., 0]


def next_log_probs(model, params, prompt, source=None, length=12):
    """The log-probabilities [V] of the token after a prompt [P]."""
    vocabulary = np.arange(V)[:, None]
    return log_probs(model, params, prompt, vocabulary, source, length)[:, 0]


@contextlib.contextmanager
def count_compilations():
    """The names of the programs compiled inside the block."""
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
