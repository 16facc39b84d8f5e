"""The laws of every norm variant, such as ``nn.LayerNorm()``; not those of one formula."""

import functools

from tfm_jax import nn
from tfm_jax.laws.law import Suite, law
from tfm_jax.laws.suites.cases.variants import (
    Built,
    Model,
    ModuleSubject,
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

__all__ = ["norm"]


class NormSubject(ModuleSubject):
    """A norm variant.

    Args:
      variant: an ``nn.Norm``, or its class where all fields have defaults.
    """

    def __init__(self, variant: nn.Norm | type[nn.Norm]):
        super().__init__(self.raw)
        self.variant = instance_of(nn.Norm, variant)
        self.model = functools.cache(lambda size: Model(self.pure(size, "D", "float32")))

    def pure(self, size: int, axis: str, dtype: str) -> nn.Pure[Built]:
        """The module that the variant builds."""
        return module_of(functools.partial(self.variant.build, size, axis=axis, dtype=dtype))


@law(cases(), severity="contract")
def parameters(norm: NormSubject, x: VectorsCase) -> None:
    """The parameters have the dtype and the letter of the axis with which the module is built."""
    size = x.x.shape[-1]
    assert_parameters(norm.pure(size, "D", "float32"), dtype="float32", sizes={size: "D"})
    assert_parameters(norm.pure(size, "H", "bfloat16"), dtype="bfloat16", sizes={size: "H"})


norm = Suite(
    "norm",
    "a norm variant, such as nn.LayerNorm(): build(size, axis=, dtype=, rngs=) -> module(x [..., size]) -> "
    "[..., size]",
    NormSubject,
    (
        vectors_are_independent,
        leading_dims,
        dtype_is_preserved,
        zero_vectors,
        large_vectors,
        gradients_are_finite,
        parameters,
        compiled_matches_eager,
    ),
)
