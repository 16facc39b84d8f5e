"""The laws of every activation function, ``activation(x [...]) -> [...]``, element by element."""

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, assert_close, law
from tfm_jax.laws.subject import Function
from tfm_jax.laws.suites.cases.variants import LARGE, assert_finite
from tfm_jax.laws.suites.cases.vectors import (
    VectorsCase,
    VectorsSubject,
    cases,
    compiled_matches_eager,
    dtype_is_preserved,
)

__all__ = ["activation"]


class ActivationSubject(VectorsSubject):
    """An activation function.

    Args:
      function: an ``nn.Activation``, its class where all fields have defaults, or a function of an array.
    """

    def __init__(self, function: Function | type):
        super().__init__(function() if isinstance(function, type) else function)


@law(cases())
def elements_are_independent(f: ActivationSubject, x: VectorsCase) -> None:
    """The output for an element depends on no other element."""
    b, t = x.some_token
    alone, wanted = f(x.x[b : b + 1, t : t + 1, :1]), f(x.x)[b : b + 1, t : t + 1, :1]
    assert_close(alone, wanted, atol=TOLERANCE, what=f"output of element {[b, t, 0]} alone")


@law(cases())
def finite(f: ActivationSubject, x: VectorsCase) -> None:
    """Numbers near 0, large ones and 0 give finite outputs and finite gradients."""
    for name, y in {"x": x.x, "0": 0 * x.x, f"{LARGE:g} x": x.x * np.float32(LARGE)}.items():
        assert_finite(f(y), f"output of {name}")
        assert_finite(f.run(lambda y=y: f.gradient(jnp.asarray(x.cotangent), y)), f"gradient at {name}")


activation = Suite(
    "activation",
    "activation(x [...]) -> [...], such as an nn.Activation, or jax.nn.gelu",
    ActivationSubject,
    (elements_are_independent, finite, dtype_is_preserved, compiled_matches_eager),
)
