"""Mutants of attention with a structured mask. A mask argument is present if it is not None."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import attention
from tests.mutants._mutant import Mutant


def query_positions(T, S, offset):
    if offset is None and T != S:
        raise ValueError(f"attend: got {T} queries and {S} keys without an offset; wanted one")
    return (0 if offset is None else offset) + jnp.arange(T)[None, None, :, None]


def causal_mask(positions, keys, args):
    return keys <= positions


def prefix_mask(keys, prefix):
    return keys < prefix[:, None, None, None]


def window_mask(positions, keys, window):
    return keys > positions - window


def segment_mask(positions, segments, args):
    return segments[:, None, positions.ravel(), None] == segments[:, None, None, :]


def length_mask(positions, keys, lengths):
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
    query_positions=query_positions,
    causal_mask=causal_mask,
    prefix_mask=prefix_mask,
    window_mask=window_mask,
    segment_mask=segment_mask,
    length_mask=length_mask,
    attend_dense=attention.attend,
):
    (B, T), S = q.shape[:2], k.shape[1]
    positions, keys = query_positions(T, S, offset), jnp.arange(S)[None, None, None]
    args = {"offset": offset, "lengths": lengths, "segments": segments, "window": window}
    mask = jnp.ones((B, 1, T, S), bool)
    if causal is not None:
        mask &= causal_mask(positions, keys, args)
    if prefix is not None:
        mask |= prefix_mask(keys, prefix)
    if window is not None:
        mask &= window_mask(positions, keys, window)
    if segments is not None:
        mask &= segment_mask(positions, segments, args)
    if lengths is not None:
        mask &= length_mask(positions, keys, lengths)
    return attend_dense(q, k, v, mask)


def any_present(args, *names):
    return any(args[name] is not None for name in names)


@jax.custom_vjp
def segments_in_forward_only(q, k, v, args):
    return attend(q, k, v, **args)


segments_in_forward_only.defvjp(
    lambda q, k, v, args: (attend(q, k, v, **args), (q, k, v, args)),
    lambda saved, cotangent: (
        *jax.vjp(lambda *x: attend(*x, **(saved[3] | {"segments": None})), *saved[:3])[1](cotangent),
        None,
    ),
)


def variant(**parts):
    return functools.partial(attend, **parts)


EVERYTHING = jnp.bool_(True)
RIGHT = attend
MUTANTS = {
    "causal is aligned top-left without an offset": Mutant(
        variant(query_positions=lambda T, S, offset: jnp.arange(T)[None, None, :, None]),
        ["causal_with_offset", "offset_is_required", "decode_matches_forward"],
        "pytorch/pytorch#103082",
    ),
    "causal is aligned bottom-right whatever the offset": Mutant(
        variant(query_positions=lambda T, S, offset: S - T + jnp.arange(T)[None, None, :, None]),
        ["causal_with_offset", "offset_is_required"],
    ),
    "queries after a cache see all keys": Mutant(
        variant(
            causal_mask=lambda positions, keys, args: (
                EVERYTHING if any_present(args, "offset") else keys <= positions
            )
        ),
        ["causal_with_offset", "decode_matches_forward"],
        "Mikyx-1/TinyLLM#17",
    ),
    "causal is ignored without another argument": Mutant(
        variant(
            causal_mask=lambda positions, keys, args: (
                keys <= positions if any_present(args, "window", "segments", "lengths") else EVERYTHING
            )
        ),
        ["causal_mask"],
        "facebookresearch/xformers#103",
    ),
    "causal is ignored with another mask": Mutant(
        variant(
            causal_mask=lambda positions, keys, args: (
                EVERYTHING if any_present(args, "segments", "lengths") else keys <= positions
            )
        ),
        ["masks_compose"],
        "keras-team/keras#23040",
    ),
    "a window has one key too many": Mutant(
        variant(window_mask=lambda positions, keys, window: keys >= positions - window),
        ["sliding_window"],
        "ml-explore/mlx-lm#390",
    ),
    "the window is ignored": Mutant(
        variant(window_mask=lambda positions, keys, window: EVERYTHING),
        ["sliding_window", "masks_compose"],
        "unslothai/unsloth#8253",
    ),
    "the window masks no earlier key": Mutant(
        variant(
            window_mask=lambda positions, keys, window: (keys <= positions) | (keys > positions + window)
        ),
        ["sliding_window"],
        "huggingface/transformers#41228",
    ),
    "a window is always shorter than the sequence": Mutant(
        variant(
            window_mask=lambda positions, keys, window: keys > positions - jnp.minimum(window, keys.size - 1)
        ),
        ["wide_window_is_no_window"],
    ),
    "segments are ignored": Mutant(
        variant(segment_mask=lambda positions, segments, args: EVERYTHING),
        ["segments_are_independent", "masks_compose", "gradients"],
        "AI-Hypercomputer/maxtext#4476",
    ),
    "segments are ignored with padding": Mutant(
        variant(
            segment_mask=lambda positions, segments, args: (
                EVERYTHING if any_present(args, "lengths") else segment_mask(positions, segments, args)
            )
        ),
        ["masks_compose"],
        "huggingface/transformers#46634",
    ),
    "the backward pass ignores the segments": Mutant(
        lambda q, k, v, **args: segments_in_forward_only(q, k, v, args), ["gradients"]
    ),
    "padding is read": Mutant(
        variant(length_mask=lambda positions, keys, lengths: EVERYTHING),
        ["lengths_mask_padding", "zero_length_gives_zero"],
        "pacman100/LLM-Workshop#1",
    ),
    "padding masks queries instead of keys": Mutant(
        variant(length_mask=lambda positions, keys, lengths: positions < lengths[:, None, None, None]),
        ["lengths_mask_padding"],
        "hyunwoongko/transformer#40",
    ),
    "one key past the length is read": Mutant(
        variant(length_mask=lambda positions, keys, lengths: keys <= lengths[:, None, None, None]),
        ["lengths_mask_padding", "zero_length_gives_zero"],
        "microsoft/onnxruntime-genai#2354",
    ),
    "a fully masked row is the mean": Mutant(
        variant(attend_dense=attention.MUTANTS["a fully masked row is uniform"].function),
        ["zero_length_gives_zero"],
        "NVIDIA/apex#1390",
    ),
    "the prefix is one key too short": Mutant(
        variant(prefix_mask=lambda keys, prefix: keys < prefix[:, None, None, None] - 1),
        ["prefix_is_bidirectional"],
        "bigscience-workshop/Megatron-DeepSpeed#167",
    ),
}
