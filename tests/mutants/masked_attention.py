"""Wrong masks, said in words: each with a bug that was seen somewhere, in our own words; and the right ones.

A word is given where its argument is not None; a mutant is the right table with one part exchanged.
"""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import attention
from tests.mutants.mutant import Mutant


def places(T, S, offset):
    if offset is None and T != S:
        raise ValueError("where do the queries stand?")
    return (0 if offset is None else offset) + jnp.arange(T)[None, None, :, None]


def triangle(at, keys, words):
    return keys <= at


def prefixed(keys, prefix):
    return keys < prefix[:, None, None, None]


def windowed(at, keys, window):
    return keys > at - window


def shared(at, segments, words):
    return segments[:, None, at.ravel(), None] == segments[:, None, None, :]


def valid(at, keys, lengths):
    return keys < lengths[:, None, None, None]


def attend(
    q,
    k,
    v,
    *,
    causal=None,
    prefix=None,
    window=None,
    segments=None,
    lengths=None,
    offset=None,
    places=places,
    triangle=triangle,
    prefixed=prefixed,
    windowed=windowed,
    shared=shared,
    valid=valid,
    within=attention.attend,
):
    (B, T), S = q.shape[:2], k.shape[1]
    at, keys = places(T, S, offset), jnp.arange(S)[None, None, None]
    words = {"offset": offset, "lengths": lengths, "segments": segments, "window": window}
    table = jnp.ones((B, 1, T, S), bool)
    if causal is not None:
        table &= triangle(at, keys, words)
    if prefix is not None:
        table |= prefixed(keys, prefix)
    if window is not None:
        table &= windowed(at, keys, window)
    if segments is not None:
        table &= shared(at, segments, words)
    if lengths is not None:
        table &= valid(at, keys, lengths)
    return within(q, k, v, table)


def given(words, *names):
    return any(words[name] is not None for name in names)


@jax.custom_vjp
def forward_with_segments(q, k, v, words):
    return attend(q, k, v, **words)


forward_with_segments.defvjp(
    lambda q, k, v, words: (attend(q, k, v, **words), (q, k, v, words)),
    lambda saved, slope: (
        *jax.vjp(lambda *x: attend(*x, **(saved[3] | {"segments": None})), *saved[:3])[1](slope),
        None,
    ),
)


def part(**parts):
    return functools.partial(attend, **parts)


EVERYTHING = jnp.bool_(True)
RIGHT = attend
# by name: a wrong mask, the laws that it must break, and where it was seen
MUTANTS = {
    "causal from the top left": Mutant(
        part(places=lambda T, S, offset: jnp.arange(T)[None, None, :, None]),
        ["causal_at_an_offset", "no_guess_without_an_offset", "decoding"],
        "pytorch/pytorch#103082",
    ),
    "causal from the bottom right, wherever the queries stand": Mutant(
        part(places=lambda T, S, offset: S - T + jnp.arange(T)[None, None, :, None]),
        ["causal_at_an_offset", "no_guess_without_an_offset"],
    ),
    "queries after a cache see all": Mutant(
        part(triangle=lambda at, keys, words: EVERYTHING if given(words, "offset") else keys <= at),
        ["causal_at_an_offset", "decoding"],
        "Mikyx-1/TinyLLM#17",
    ),
    "causal is left out where no other word is said": Mutant(
        part(
            triangle=lambda at, keys, words: (
                keys <= at if given(words, "window", "segments", "lengths") else EVERYTHING
            )
        ),
        ["causal_triangle"],
        "facebookresearch/xformers#103",
    ),
    "causal is left out beside another mask": Mutant(
        part(
            triangle=lambda at, keys, words: EVERYTHING if given(words, "segments", "lengths") else keys <= at
        ),
        ["all_at_once"],
        "keras-team/keras#23040",
    ),
    "a window has one key too many": Mutant(
        part(windowed=lambda at, keys, window: keys >= at - window),
        ["window_reads_w_keys"],
        "ml-explore/mlx-lm#390",
    ),
    "the window is not read": Mutant(
        part(windowed=lambda at, keys, window: EVERYTHING),
        ["window_reads_w_keys", "all_at_once"],
        "unslothai/unsloth#8253",
    ),
    "the window closes nothing before it": Mutant(
        part(windowed=lambda at, keys, window: (keys <= at) | (keys > at + window)),
        ["window_reads_w_keys"],
        "huggingface/transformers#41228",
    ),
    "a window is shorter than the sequence": Mutant(
        part(windowed=lambda at, keys, window: keys > at - jnp.minimum(window, keys.size - 1)),
        ["wide_window_is_none"],
    ),
    "segments are not read": Mutant(
        part(shared=lambda at, segments, words: EVERYTHING),
        ["segments_are_separate", "all_at_once", "gradients_of_the_table"],
        "AI-Hypercomputer/maxtext#4476",
    ),
    "segments are not read beside padding": Mutant(
        part(
            shared=lambda at, segments, words: (
                EVERYTHING if given(words, "lengths") else shared(at, segments, words)
            )
        ),
        ["all_at_once"],
        "huggingface/transformers#46634",
    ),
    "the backward pass forgets the segments": Mutant(
        lambda q, k, v, **words: forward_with_segments(q, k, v, words), ["gradients_of_the_table"]
    ),
    "padding is read": Mutant(
        part(valid=lambda at, keys, lengths: EVERYTHING),
        ["lengths_cut", "nothing_to_read"],
        "pacman100/LLM-Workshop#1",
    ),
    "padding closes queries instead of keys": Mutant(
        part(valid=lambda at, keys, lengths: at < lengths[:, None, None, None]),
        ["lengths_cut"],
        "hyunwoongko/transformer#40",
    ),
    "one key beyond the length is read": Mutant(
        part(valid=lambda at, keys, lengths: keys <= lengths[:, None, None, None]),
        ["lengths_cut", "nothing_to_read"],
        "microsoft/onnxruntime-genai#2354",
    ),
    "an empty row is the mean": Mutant(
        part(within=attention.MUTANTS["an empty row is uniform"].function),
        ["nothing_to_read"],
        "NVIDIA/apex#1390",
    ),
    "the prefix ends one key early": Mutant(
        part(prefixed=lambda keys, prefix: keys < prefix[:, None, None, None] - 1),
        ["prefix_is_open"],
        "bigscience-workshop/Megatron-DeepSpeed#167",
    ),
}
