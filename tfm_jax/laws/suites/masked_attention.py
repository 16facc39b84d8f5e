"""The laws of attention with a structured mask, ``attend(q, k, v, causal=, window=, segments=, ...)``.

Kernels that skip masked blocks, and many libraries, take a mask as arguments such as ``causal``. The laws
compare each argument with the dense mask that it describes.
"""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, assert_close, law
from tfm_jax.laws.subject import Unsupported
from tfm_jax.laws.suites.cases.attention import (
    AttentionCase,
    attention_weights,
    cases,
    gradients_of,
    has_unmasked_key,
    weighted_sum,
)
from tfm_jax.laws.suites.cases.masked_attention import (
    MaskedCase,
    MaskedSubject,
    masked_cases,
    queries_fit_in_keys,
)

__all__ = ["masked_attention"]

OPTIONAL = ("causal", "segments", "lengths")
"""The arguments that do not need another one; ``window`` and ``prefix`` come with ``causal``."""


def _check_output(attend: MaskedSubject, x: MaskedCase) -> None:
    """The output is that of the dense mask, for queries with an unmasked key."""
    some = has_unmasked_key(x)
    wanted = weighted_sum(attention_weights(x.q, x.k, x.mask), x.v)
    got = attend(x.q, x.k, x.v, **x.mask_args)
    assert_close(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


def _check_weights(attend: MaskedSubject, x: MaskedCase) -> None:
    """The keys with a nonzero weight are the unmasked keys of the dense mask."""
    nonzero = attend.weights(x.q, x.k, **x.mask_args) != 0
    if (wrong := nonzero != x.unmasked).any():
        b, n, t, _ = np.argwhere(wrong)[0]
        got, wanted = (np.flatnonzero(keys[b, n, t]).tolist() for keys in (nonzero, x.unmasked))
        raise Violation(f"query {t} of example {b}, head {n}: got weights at keys {got}; wanted {wanted}")


@law(masked_cases("causal"))
def causal_mask(attend: MaskedSubject, x: MaskedCase) -> None:
    """A causal mask unmasks the keys up to each query's position."""
    _check_output(attend, x)
    _check_weights(attend, x)


@law(masked_cases("causal", "offset"))
def causal_with_offset(attend: MaskedSubject, x: MaskedCase) -> None:
    """With an offset, a causal mask unmasks the keys up to offset + the query's index."""
    _check_output(attend, x)
    _check_weights(attend, x)


@law(
    cases(masked=False, fits=lambda shape: queries_fit_in_keys(shape) and shape.T < shape.S),
    severity="contract",
)
def offset_is_required(attend: MaskedSubject, x: AttentionCase) -> None:
    """With more keys than queries, a causal mask without an offset is an error, not a guess."""
    T = x.q.shape[1]
    attend(x.q, x.k[:, :T], x.v[:, :T], causal=True)  # not supported if the function takes no causal mask
    try:
        out = attend(x.q, x.k, x.v, causal=True)
    except Unsupported:
        return
    offsets = range(x.k.shape[1] - T + 1)
    dense = [np.arange(x.k.shape[1]) <= offset + np.arange(T)[:, None] for offset in offsets]
    outputs = [weighted_sum(attention_weights(x.q, x.k, mask), x.v) for mask in dense]
    guess = [
        offset for offset, wanted in zip(offsets, outputs, strict=True) if np.allclose(out, wanted, atol=1e-4)
    ]
    raise Violation(f"output: got that of offset {guess or 'none'}; wanted an error")


@law(masked_cases("causal", "window", optional=("offset",)))
def sliding_window(attend: MaskedSubject, x: MaskedCase) -> None:
    """A window of w unmasks the last w keys up to the query's position."""
    _check_output(attend, x)
    _check_weights(attend, x)


@law(masked_cases("causal", optional=("offset",)))
def wide_window_is_no_window(attend: MaskedSubject, x: MaskedCase) -> None:
    """A window at least as wide as the sequence changes nothing."""
    wide = attend(x.q, x.k, x.v, **x.mask_args, window=x.k.shape[1] + x.seed % 3)
    assert_close(wide, attend(x.q, x.k, x.v, **x.mask_args), atol=TOLERANCE)


@law(masked_cases("segments", optional=("causal",)))
def segments_are_independent(attend: MaskedSubject, x: MaskedCase) -> None:
    """Packed segments give the outputs that each gives alone."""
    packed = attend(x.q, x.k, x.v, **x.mask_args)
    others = {name: value for name, value in x.mask_args.items() if name != "segments"}
    for b, ids in enumerate(x.mask_args["segments"]):
        for segment in np.unique(ids):
            at = np.flatnonzero(ids == segment)
            alone = attend(*(y[b : b + 1, at] for y in (x.q, x.k, x.v)), **others)
            what = f"outputs of segment {segment} of example {b}"
            assert_close(packed[b : b + 1, at], alone, atol=TOLERANCE, what=what)


@law(masked_cases("lengths", optional=("causal",)))
def lengths_mask_padding(attend: MaskedSubject, x: MaskedCase) -> None:
    """Keys and values past an example's length do not change its output by one bit."""
    k, v = x.k.copy(), x.v.copy()
    for b, n in enumerate(x.mask_args["lengths"]):
        k[b, n:], v[b, n:] = 3, -5
    got, wanted = attend(x.q, k, v, **x.mask_args), attend(x.q, x.k, x.v, **x.mask_args)
    assert_close(got, wanted, what="output with other keys and values past the length")
    _check_output(attend, x)


@law(masked_cases("lengths", shortest=0), severity="contract")
def zero_length_gives_zero(attend: MaskedSubject, x: MaskedCase) -> None:
    """An example of length 0 gives output 0."""
    lengths = np.where(np.arange(len(x.q)) == 0, 0, x.mask_args["lengths"]).astype(np.int32)
    x = x.replace_mask(lengths=lengths)
    assert_close(attend(x.q, x.k, x.v, **x.mask_args)[0], 0, what="output of example 0")


@law(masked_cases("causal", "prefix", optional=("offset",)))
def prefix_is_bidirectional(attend: MaskedSubject, x: MaskedCase) -> None:
    """Every query may attend to the whole prefix; the rest is causal."""
    _check_output(attend, x)
    _check_weights(attend, x)


@law(masked_cases("causal", optional=("window", "segments", "lengths", "prefix")))
def masks_compose(attend: MaskedSubject, x: MaskedCase) -> None:
    """Several mask arguments together give the combination of their dense masks."""
    _check_output(attend, x)


@law(masked_cases(optional=OPTIONAL))
def gradients(attend: MaskedSubject, x: MaskedCase) -> None:
    """The gradients are those of the dense mask, and exactly 0 at keys that are masked for every query."""
    cotangent = x.rng.standard_normal(x.q.shape).astype(np.float32)
    got = attend.gradient(x.q, x.k, x.v, cotangent, **x.mask_args)
    for name, ours, right in zip("qkv", got, gradients_of(x, cotangent), strict=True):
        assert_close(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")
    masked = ~np.asarray(x.mask.any((1, 2)))[..., None, None]
    for name, ours in zip("kv", got[1:], strict=True):
        assert_close(np.where(masked, ours, 0), 0, what=f"gradient by {name} at masked keys")


@law(masked_cases("causal", optional=("window", "segments", "lengths")))
def decode_matches_forward(attend: MaskedSubject, x: MaskedCase) -> None:
    """The last queries alone, at their offset, give the outputs that they give among all queries."""
    T = x.q.shape[1]
    at = (T - 1, T // 2)[x.seed % 2]
    alone = attend(x.q[:, at:], x.k, x.v, **x.mask_args, offset=at)
    forward = attend(x.q, x.k, x.v, **x.mask_args)[:, at:]
    some = has_unmasked_key(x)[:, at:]
    got, wanted = (np.where(some, y, 0) for y in (alone, forward))
    assert_close(got, wanted, atol=TOLERANCE, what=f"outputs from query {at} on")


masked_attention = Suite(
    "masked_attention",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], and any of causal=True, window=int, "
    "prefix=int [B], segments=int [B, S], lengths=int [B], offset=int) -> [B, T, N, H]",
    MaskedSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
