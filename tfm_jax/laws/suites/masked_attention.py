"""The laws of masks that are said in words: of any ``attend(q, k, v, causal=, window=, segments=, ...)``.

Kernels that skip what is closed, and the arguments of libraries, know a mask by its words. What each word
opens is held against the table that it stands for.
"""

import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, law, same
from tfm_jax.laws.subject import Refused
from tfm_jax.laws.suites.cases.attention import cases, mix, slopes_of, weights_of
from tfm_jax.laws.suites.cases.masked_attention import MaskedCase, MaskedSubject, ahead, described

__all__ = ["masked_attention"]

ALL = ("causal", "segments", "lengths")
"""Words that may stand alone; ``window`` and ``prefix`` come with ``causal``."""


def _by_definition(attend: MaskedSubject, x: MaskedCase) -> None:
    """The output is that of the table, in rows where something is open."""
    some = np.moveaxis(x.open.any(-1), 1, 2)[..., None]
    wanted = mix(weights_of(x.q, x.k, x.mask), x.v)
    same(np.where(some, attend(x.q, x.k, x.v, **x.given), 0), np.where(some, wanted, 0), atol=TOLERANCE)


def _reads(attend: MaskedSubject, x: MaskedCase) -> None:
    """The keys with a weight are those of the table."""
    read = attend.weights(x.q, x.k, **x.given) != 0
    if (wrong := read != x.open).any():
        b, n, t, _ = np.argwhere(wrong)[0]
        got, wanted = (np.flatnonzero(keys[b, n, t]).tolist() for keys in (read, x.open))
        raise Violation(f"query {t} of row {b}, head {n}: got weights at keys {got}, wanted them at {wanted}")


@law(described("causal"))
def causal_triangle(attend: MaskedSubject, x: MaskedCase) -> None:
    """The decoder's mask opens to each query the keys at and before its position."""
    _by_definition(attend, x)
    _reads(attend, x)


@law(described("causal", "offset"))
def causal_at_an_offset(attend: MaskedSubject, x: MaskedCase) -> None:
    """Queries that stand further on, at an offset, see the keys up to where they stand."""
    _by_definition(attend, x)
    _reads(attend, x)


@law(cases(masked=False, fits=lambda shape: ahead(shape) and shape.T < shape.S))
def no_guess_without_an_offset(attend: MaskedSubject, x: MaskedCase) -> None:
    """With more keys than queries, a causal mask without the queries' position is refused, not guessed."""
    T = x.q.shape[1]
    attend(x.q, x.k[:, :T], x.v[:, :T], causal=True)  # what takes no causal mask at all is not asked
    try:
        out = attend(x.q, x.k, x.v, causal=True)
    except Refused:
        return
    places = range(x.k.shape[1] - T + 1)
    tables = [np.arange(x.k.shape[1]) <= at + np.arange(T)[:, None] for at in places]
    taken = [np.allclose(out, mix(weights_of(x.q, x.k, table), x.v), atol=1e-4) for table in tables]
    guess = [at for at, close in zip(places, taken, strict=True) if close]
    raise Violation(f"output: got one, as if query 0 stood at key {guess or 'none'}, wanted an error")


@law(described("causal", "window", perhaps=("offset",)))
def window_reads_w_keys(attend: MaskedSubject, x: MaskedCase) -> None:
    """A window of w opens the w keys that end at the query's own position."""
    _by_definition(attend, x)
    _reads(attend, x)


@law(described("causal", perhaps=("offset",)))
def wide_window_is_none(attend: MaskedSubject, x: MaskedCase) -> None:
    """A window as wide as the sequence, or wider, is no window."""
    wide = attend(x.q, x.k, x.v, **x.given, window=x.k.shape[1] + x.seed % 3)
    same(wide, attend(x.q, x.k, x.v, **x.given), atol=TOLERANCE)


@law(described("segments", perhaps=("causal",)))
def segments_are_separate(attend: MaskedSubject, x: MaskedCase) -> None:
    """Documents that are packed into one row give what each gives alone."""
    packed = attend(x.q, x.k, x.v, **x.given)
    causal = {name: value for name, value in x.given.items() if name != "segments"}
    for b, ids in enumerate(x.given["segments"]):
        for one in np.unique(ids):
            at = np.flatnonzero(ids == one)
            alone = attend(*(y[b : b + 1, at] for y in (x.q, x.k, x.v)), **causal)
            same(packed[b : b + 1, at], alone, atol=TOLERANCE, what=f"outputs of document {one} of row {b}")


@law(described("lengths", perhaps=("causal",)))
def lengths_cut(attend: MaskedSubject, x: MaskedCase) -> None:
    """Keys beyond a row's length change nothing: it gives what it gives without them."""
    k, v = x.k.copy(), x.v.copy()
    for b, n in enumerate(x.given["lengths"]):
        k[b, n:], v[b, n:] = 3, -5
    padded = attend(x.q, k, v, **x.given)
    same(padded, attend(x.q, x.k, x.v, **x.given), what="output with other keys and values beyond the length")
    _by_definition(attend, x)


@law(described("lengths", shortest=0))
def nothing_to_read(attend: MaskedSubject, x: MaskedCase) -> None:
    """A row of length 0 gives 0."""
    x = x.but(lengths=np.where(np.arange(len(x.q)) == 0, 0, x.given["lengths"]).astype(np.int32))
    same(attend(x.q, x.k, x.v, **x.given)[0], 0, what="output of row 0")


@law(described("causal", "prefix", perhaps=("offset",)))
def prefix_is_open(attend: MaskedSubject, x: MaskedCase) -> None:
    """A prefix is open to every query, and what follows is causal."""
    _by_definition(attend, x)
    _reads(attend, x)


@law(described("causal", perhaps=("window", "segments", "lengths", "prefix")))
def all_at_once(attend: MaskedSubject, x: MaskedCase) -> None:
    """Words together open what each of them opens, and nothing else."""
    _by_definition(attend, x)


@law(described(perhaps=ALL))
def gradients_of_the_table(attend: MaskedSubject, x: MaskedCase) -> None:
    """The gradients are those of the table, and exactly 0 at keys that it closes to all."""
    slope = x.rng.standard_normal(x.q.shape).astype(np.float32)
    got = attend.gradient(x.q, x.k, x.v, slope, **x.given)
    for name, ours, right in zip("qkv", got, slopes_of(x.q, x.k, x.v, x.mask, slope), strict=True):
        same(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")
    closed = ~x.mask.any((1, 2))[..., None, None]
    for name, ours in zip("kv", got[1:], strict=True):
        same(np.where(closed, ours, 0), 0, what=f"gradient by {name} where all is closed")


@law(described("causal", perhaps=("window", "segments", "lengths")))
def decoding(attend: MaskedSubject, x: MaskedCase) -> None:
    """The queries from some position on, alone, give what they give among all."""
    T = x.q.shape[1]
    at = (T - 1, T // 2)[x.seed % 2]
    alone = attend(x.q[:, at:], x.k, x.v, **x.given, offset=at)
    whole = attend(x.q, x.k, x.v, **x.given)
    some = np.moveaxis(x.open.any(-1), 1, 2)[:, at:, :, None]
    got, wanted = (np.where(some, y, 0) for y in (alone, whole[:, at:]))
    same(got, wanted, atol=TOLERANCE, what=f"outputs from query {at} on")


masked_attention = Suite(
    "masked_attention",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], causal=True, window=int, prefix=int [B], "
    "segments=int [B, S], lengths=int [B], offset=int; those that are wanted) -> [B, T, N, H]",
    MaskedSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
