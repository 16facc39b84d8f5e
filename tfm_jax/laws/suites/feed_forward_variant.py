"""The laws of every feed-forward variant, such as ``nn.Mlp()``, with its auxiliary losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import nn
from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import unpack
from tfm_jax.laws.suites.cases.variants import (
    Built,
    Model,
    ModuleSubject,
    assert_finite,
    assert_parameters,
    gradients_are_finite,
    instance_of,
    large_vectors,
    leading_dims,
    module_of,
    zero_vectors,
)
from tfm_jax.laws.suites.cases.vectors import (
    VectorsCase,
    cases,
    compiled_matches_eager,
    dtype_is_preserved,
    vectors_are_independent,
)
from tfm_jax.laws.suites.feed_forward import examples_are_independent, permutation_equivariance
from tfm_jax.types import Array

__all__ = ["feed_forward_variant"]

D, F = 8, 12
TOLERANCE = 1e-4


class FeedForwardVariantSubject(ModuleSubject):
    """A feed-forward variant, built for D = 8 and F = 12.

    Args:
      variant: an ``nn.FeedForward``, or its class where all fields have defaults.
    """

    def __init__(self, variant: nn.FeedForward | type[nn.FeedForward]):
        super().__init__(self.raw)
        self.variant = instance_of(nn.FeedForward, variant)
        self.model = functools.cache(lambda size: Model(self.pure("float32")))

    def config(self, **fields: object) -> nn.Config:
        """A model with this feed-forward layer."""
        sizes = {"vocab_size": 5, "d_model": D, "d_ff": F, "n_heads": 2, "n_layers": 3, "positions": None}
        return nn.Config(**{**sizes, "feed_forward": self.variant, **fields})

    def pure(self, param_dtype: str) -> nn.Pure[Built]:
        """The module that the variant builds."""
        return module_of(functools.partial(self.variant.build, self.config(param_dtype=param_dtype)))

    def fit(self, x: Array) -> Array:
        """The vectors of a case, repeated and cut to size D."""
        return jnp.tile(x, -(-D // x.shape[-1]))[..., :D]

    def output(self, out: object) -> Array:
        """The vectors of ``(y, auxiliary)``."""
        return jnp.asarray(unpack(out, "y, auxiliary")[0])

    def auxiliary(self, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The auxiliary losses for the vectors of a case, checked."""
        model = self.model(D)
        out = self.run(lambda: model.pure.apply(model.params, self.fit(jnp.asarray(x))))
        losses = unpack(out, "y, auxiliary")[1]
        if not isinstance(losses, dict):
            raise Violation(f"auxiliary: got {type(losses).__name__}; wanted a dict of (sum, weight)")
        return {name: _checked(name, loss) for name, loss in losses.items()}


def _checked(name: str, loss: object) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the weight of a loss. Raises ``Violation`` for other than two float32 scalars."""
    total, weight = (np.asarray(part) for part in unpack(loss, "sum, weight"))
    got = [f"{part.dtype}{list(part.shape)}" for part in (total, weight)]
    if got != ["float32[]"] * 2:
        raise Violation(f"auxiliary {name!r}: got {', '.join(got)}; wanted (sum, weight), float32 scalars")
    return total, weight


@law(cases(), severity="contract")
def auxiliary_is_sum_and_weight(f: FeedForwardVariantSubject, x: VectorsCase) -> None:
    """Each auxiliary loss is (sum, weight), two finite float32 scalars, also for vectors of bfloat16."""
    for vectors in (x.x, x.x.astype(jnp.bfloat16)):
        for name, loss in f.auxiliary(vectors).items():
            assert_finite(loss, f"auxiliary {name!r}")


@law(cases())
def auxiliary_adds_over_examples(f: FeedForwardVariantSubject, x: VectorsCase) -> None:
    """The sums and the weights of a batch are those of its examples, added."""
    alone = [f.auxiliary(example[None]) for example in x.x]
    for name, loss in f.auxiliary(x.x).items():
        for part, got, wanted in zip(
            ("sum", "weight"), loss, np.sum([each[name] for each in alone], axis=0), strict=True
        ):
            what = f"{part} of auxiliary {name!r} of the batch"
            assert_close(got, wanted, atol=TOLERANCE, what=f"{what}, compared with those of its examples")


@law(cases(), severity="contract")
def parameters(f: FeedForwardVariantSubject, x: VectorsCase) -> None:
    """The parameters have the dtype of the config, and their axes of sizes D and F these letters."""
    for dtype in ("float32", "bfloat16"):
        assert_parameters(f.pure(dtype), dtype=dtype, sizes={D: "D", F: "F"})


@law(cases())
def scanned_matches_unrolled(f: FeedForwardVariantSubject, x: VectorsCase) -> None:
    """In an encoder of three layers, scanned or unrolled, the layer gives the same output."""
    tokens = x.rng.integers(0, 5, (2, 3)).astype(np.int32)
    scanned, unrolled = (nn.functionalize(nn.Encoder, f.config(unroll=unroll)) for unroll in (False, True))
    params = f.run(lambda: jax.jit(scanned.init)(jax.random.key(x.seed)))
    got, wanted = (f.run(lambda model=model: _encode(model, params, tokens)) for model in (scanned, unrolled))
    assert_close(got, wanted, atol=TOLERANCE, what="output of scanned layers, compared with unrolled ones")


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: nn.Pure[nn.Encoder], params: object, tokens: Array) -> Array:
    return model.apply(params, tokens)


feed_forward_variant = Suite(
    "feed_forward_variant",
    f"a feed-forward variant, such as nn.Mlp(): build(config, rngs=) -> module(x [..., D], key=None) -> "
    f"(y [..., D], auxiliary), with D = {D} and F = {F}",
    FeedForwardVariantSubject,
    (
        vectors_are_independent,
        permutation_equivariance,
        examples_are_independent,
        leading_dims,
        dtype_is_preserved,
        zero_vectors,
        large_vectors,
        gradients_are_finite,
        auxiliary_is_sum_and_weight,
        auxiliary_adds_over_examples,
        parameters,
        scanned_matches_unrolled,
        compiled_matches_eager,
    ),
)
