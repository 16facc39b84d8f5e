"""The laws of every position scheme, such as ``nn.Rope()``: embedding, rotation, bias, KV cache."""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import strategies as st

from tfm_jax import nn
from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE as VECTOR_TOLERANCE
from tfm_jax.laws.law import Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cached_decoder import CAPACITY, CacheCase
from tfm_jax.laws.suites.cached_decoder import cases as cache_cases
from tfm_jax.laws.suites.cases.positions import MAX_POSITION
from tfm_jax.laws.suites.cases.seeded import Seeded
from tfm_jax.laws.suites.cases.tokens import IDS, TOLERANCE
from tfm_jax.laws.suites.cases.variants import (
    Built,
    Model,
    assert_finite,
    assert_parameters,
    instance_of,
    module_of,
)
from tfm_jax.nn.decoding import decode_step, init_cache
from tfm_jax.types import Array

__all__ = ["position_scheme"]

N, H = 2, 8
D = N * H
SHAPES = ((1, 1), (1, 2), (2, 3))  # B, T, the simplest first
PARTS = ("embedding", "rotation", "bias")
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class SchemeCase(Seeded):
    """Vectors, and their positions."""

    x: np.ndarray  # float32 [B, T, 16], the vectors of 2 heads of size 8
    positions: np.ndarray  # int32 [B, T]
    seed: int

    @property
    def some_token(self) -> tuple[slice, slice]:
        """The indices of one token, the same for the same case."""
        b, t = np.unravel_index(self.seed % self.positions.size, self.positions.shape)
        return slice(int(b), int(b) + 1), slice(int(t), int(t) + 1)

    def __str__(self) -> str:
        return f"B, T = {self.positions.shape}, positions = {self.positions.tolist()}\nx = {show(self.x)}"


@st.composite
def cases(draw) -> SchemeCase:
    """Random vectors and positions."""
    B, T = draw(st.sampled_from(SHAPES))
    positions = draw(strategies.positions((B, T), largest=MAX_POSITION))
    seed = draw(strategies.seeds())
    return SchemeCase(draw(strategies.normal((B, T, D), seed=seed)), positions, seed)


class SchemeSubject(Subject):
    """A position scheme, in models with N = 2, H = 8 and D = 16.

    Args:
      variant: an ``nn.Positions``, or its class where all fields have defaults. Positions are below its
        ``max_length``, which must be at least 5.
    """

    def __init__(self, variant: nn.Positions | type[nn.Positions]):
        super().__init__(self.raw)
        self.variant = instance_of(nn.Positions, variant)

    @property
    def config(self) -> nn.Config:
        """A model with this scheme."""
        sizes = nn.Config(vocab_size=IDS, d_model=D, n_heads=N, d_ff=12, n_layers=1, positions=None)
        return dataclasses.replace(sizes, positions=self.variant)

    def pure(self, part: str, dtype: Dtype = "float32") -> nn.Pure[Built] | None:
        """The module of the "embedding" or the "bias"; None if the scheme has none."""
        config = dataclasses.replace(self.config, param_dtype=dtype)

        def build(rngs: nnx.Rngs) -> Function | None:
            if part == "embedding":
                return self.variant.build_embedding(config, rngs=rngs)
            return self.variant.build_bias(config, bidirectional=True, rngs=rngs)

        return module_of(build) if build(nnx.Rngs(0)) else None

    @functools.cached_property
    def models(self) -> dict[str, Model[Built]]:
        """The modules that the scheme has, by part."""
        pure = {part: self.pure(part) for part in ("embedding", "bias")}
        return {part: Model(model) for part, model in pure.items() if model is not None}

    def within(self, positions: AnyArray) -> AnyArray:
        """The positions, below ``max_length``."""
        limit = self.variant.max_length
        return positions if limit is None else positions % limit

    def raw(self, x: AnyArray, positions: AnyArray) -> dict[str, Array]:
        """What the scheme makes of vectors [..., T, D]: the embedding, the rotated heads, and the bias."""
        x, at = jnp.asarray(x), jnp.asarray(self.within(positions))
        out = {"rotation": self.variant.rotate(x.reshape(*x.shape[:-1], N, H), at), "embedding": x}
        if model := self.models.get("embedding"):
            out["embedding"] = jnp.asarray(model.pure.apply(model.params, x, at))
        if model := self.models.get("bias"):
            bias, indices = model.pure.apply(model.params, at, at), jnp.arange(at.shape[-1])
            out["bias"] = jnp.asarray(bias(indices, indices) if callable(bias) else bias)
        return out

    def __call__(self, x: AnyArray, positions: AnyArray) -> dict[str, np.ndarray]:
        """What the scheme makes of vectors, the shapes checked; the bias [B, N, T, T]."""
        out = super().__call__(x, positions)
        check_shape(out["embedding"], x.shape, "[..., T, D]")
        check_shape(out["rotation"], (*x.shape[:-1], N, H), "[..., T, N, H]")
        if "bias" in out:
            T = positions.shape[-1]
            out["bias"] = _broadcast(out["bias"], (*positions.shape[:-1], N, T, T))
        return out

    @functools.cached_property
    def read(self) -> "tuple[Function, Function]":
        """The logits of a decoder: in chunks with a KV cache, and of a forward pass."""
        model = Model(nn.functionalize(nn.Decoder, self.config))
        forward = jax.jit(functools.partial(model.pure.apply, model.params))
        step = jax.jit(functools.partial(decode_step, model.pure, model.params))

        def in_chunks(tokens: Array, chunks: tuple[int, ...]) -> Array:
            cache, logits = init_cache(model.pure, model.params, len(tokens), CAPACITY), []
            for chunk in jnp.split(tokens, np.cumsum(chunks)[:-1].tolist(), axis=1):
                out, cache = step(chunk, cache)
                logits.append(out)
            return jnp.concatenate(logits, axis=1)

        return in_chunks, forward


def _broadcast(bias: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(bias, shape)
    except ValueError:
        got = list(bias.shape)
        raise Violation(f"bias: got shape {got}; wanted one that broadcasts to {list(shape)}") from None


def _assert_parts(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str) -> None:
    for part in PARTS:
        if part in wanted:
            assert_close(got[part], wanted[part], atol=VECTOR_TOLERANCE, what=f"{part} {what}")


@law(cases())
def tokens_are_independent(f: SchemeSubject, x: SchemeCase) -> None:
    """A token alone is embedded and rotated as it is among others, by its position only."""
    b, t = x.some_token
    wanted = f(x.x, x.positions)
    parts = {"embedding": wanted["embedding"][b, t], "rotation": wanted["rotation"][b, t]}
    if "bias" in wanted:
        parts["bias"] = wanted["bias"][b, :, t, t]
    _assert_parts(f(x.x[b, t], x.positions[b, t]), parts, f"of token {[b.start, t.start]} alone")


@law(cases())
def permutation_equivariance(f: SchemeSubject, x: SchemeCase) -> None:
    """Permuting the tokens, with their positions, permutes the outputs: indices do not matter."""
    order = x.rng.permutation(x.positions.shape[1])
    wanted = f(x.x, x.positions)
    parts = {"embedding": wanted["embedding"][:, order], "rotation": wanted["rotation"][:, order]}
    if "bias" in wanted:
        parts["bias"] = wanted["bias"][:, :, order][..., order]
    _assert_parts(f(x.x[:, order], x.positions[:, order]), parts, f"of tokens {order.tolist()}")


@law(cases(), severity="contract")
def leading_dims(f: SchemeSubject, x: SchemeCase) -> None:
    """An example without a batch, and a batch with another leading dim, give the same."""
    wanted = f(x.x, x.positions)
    last = {part: out[-1] for part, out in wanted.items()}
    _assert_parts(f(x.x[-1], x.positions[-1]), last, "of the last example, without a batch")
    extra = {part: out[None] for part, out in wanted.items()}
    _assert_parts(f(x.x[None], x.positions[None]), extra, "with a leading dim of 1")


@law(cases(), severity="contract")
def dtypes(f: SchemeSubject, x: SchemeCase) -> None:
    """Vectors of bfloat16 are embedded and rotated in bfloat16; the bias is floating-point."""
    half = x.x.astype(jnp.bfloat16)
    got, wanted = f(half, x.positions), f(half.astype(np.float32), x.positions)
    for part in ("embedding", "rotation"):
        if got[part].dtype != jnp.bfloat16:
            raise Violation(f"dtype of the {part}: got {got[part].dtype}; wanted bfloat16")
        assert_close(got[part], wanted[part], atol=2**-5, what=f"{part} in bfloat16")
    if "bias" in got and not jnp.issubdtype(got["bias"].dtype, jnp.floating):
        raise Violation(f"dtype of the bias: got {got['bias'].dtype}; wanted a floating-point one")


@law(cases())
def finite(f: SchemeSubject, x: SchemeCase) -> None:
    """Outputs are finite at every position; a bias may be -Inf, which masks a key."""
    out = f(x.x, x.positions)
    if "bias" in out:
        out["bias"] = np.where(np.isneginf(out["bias"]), 0, out["bias"])
    for part, array in out.items():
        assert_finite(array, part)


@law(cases(), severity="contract")
def parameters(f: SchemeSubject, x: SchemeCase) -> None:
    """The parameters have the dtype of the config, and their axes are declared."""
    for part in ("embedding", "bias"):
        for dtype in get_args(Dtype):
            if pure := f.pure(part, dtype):
                assert_parameters(pure, dtype=dtype, sizes={D: "D"})


@law(cases())
def compiled_matches_eager(f: SchemeSubject, x: SchemeCase) -> None:
    """Under jit, where positions are data, the outputs are those of the plain calls."""
    for positions in (x.positions, x.positions + 1):
        got = f.run(lambda at=positions: jax.tree.map(np.asarray, f.compiled(x.x, at)))
        wanted = f(x.x, positions)
        got = {part: np.broadcast_to(got[part], out.shape) for part, out in wanted.items()}
        _assert_parts(got, wanted, f"under jit, at {positions.tolist()}")


@law(cache_cases())
def cached_matches_full(f: SchemeSubject, x: CacheCase) -> None:
    """A decoder that reads tokens in chunks, with a KV cache, gives the logits of one forward pass."""
    got = f.run(lambda: np.asarray(f.read[0](jnp.asarray(x.tokens), x.chunks)))
    wanted = f.run(lambda: np.asarray(f.read[1](jnp.asarray(x.tokens))))
    assert_close(got, wanted, atol=TOLERANCE, what="logits of a decoder that reads in chunks")


position_scheme = Suite(
    "position_scheme",
    f"a position scheme, such as nn.Rope(), in models with N = {N}, H = {H} and D = {D}; positions are below "
    "its max_length",
    SchemeSubject,
    (
        tokens_are_independent,
        permutation_equivariance,
        leading_dims,
        dtypes,
        finite,
        parameters,
        compiled_matches_eager,
        cached_matches_full,
    ),
)
