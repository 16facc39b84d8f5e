"""The laws of a top-k router, ``route(logits [B, E], k) -> (experts [B, k], gates [B, k])``."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import Function, Subject, check_shape, unpack
from tfm_jax.laws.suites.cases.logits import LogitsCase, cases, softmax

__all__ = ["RoutingSubject", "routing"]


class RoutingSubject(Subject):
    """A router, ``function(logits, k)``.

    Args:
      function: takes logits [B, E] and k, a Python int, and returns experts int [B, k] and gates [B, k].
      normalize: whether the gates of a token add up to 1; otherwise they are probabilities of all experts.
    """

    def __init__(self, function: Function, *, normalize: bool = True):
        super().__init__(function)
        self.normalize = normalize

    def __call__(self, logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The experts and the gates, their shapes checked."""
        experts, gates = unpack(super().__call__(logits, k), "experts, gates")
        shape = (*logits.shape[:-1], k)
        return check_shape(experts, shape, "experts [B, k]"), check_shape(gates, shape, "gates [B, k]")


_cases = cases(lambda E: sorted({1, 2, E}))


def _wanted(logits: np.ndarray, k: int) -> np.ndarray:
    """The experts with the largest logits, of equal ones the lower index first."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def _assert_experts(got: np.ndarray, wanted: np.ndarray, logits: np.ndarray) -> None:
    if (got != wanted).any():
        raise Violation(f"experts: got {got.tolist()} of {show(logits)}; wanted {wanted.tolist()}")


@law(_cases)
def most_likely_experts(route: RoutingSubject, x: LogitsCase) -> None:
    """The k experts have the largest logits, the most likely first."""
    _assert_experts(route(x.logits, x.number)[0], _wanted(x.logits, x.number), x.logits)


@law(_cases, severity="contract")
def ties_by_index(route: RoutingSubject, x: LogitsCase) -> None:
    """Of equal logits, the lower index is chosen first, and no expert twice."""
    for logits in (x.tied, np.zeros_like(x.logits)):
        _assert_experts(route(logits, x.number)[0], _wanted(logits, x.number), logits)


@law(_cases)
def gates_are_probabilities(route: RoutingSubject, x: LogitsCase) -> None:
    """The gates are probabilities of the softmax, of the chosen experts or of all."""
    experts, gates = route(x.logits, x.number)
    wanted = np.take_along_axis(softmax(x.logits), experts.astype(np.int64), -1)
    if route.normalize:
        wanted = wanted / wanted.sum(-1, keepdims=True)
    assert_close(gates, wanted, atol=TOLERANCE, what="gates")


@law(_cases)
def permutation_equivariance(route: RoutingSubject, x: LogitsCase) -> None:
    """Renumbering the experts renumbers the chosen ones, and keeps their gates."""
    order = x.rng.permutation(x.logits.shape[-1])
    experts, gates = route(x.logits[:, order], x.number)
    wanted, wanted_gates = route(x.logits, x.number)
    _assert_experts(order[experts], wanted, x.logits)
    assert_close(gates, wanted_gates, atol=TOLERANCE, what="gates of renumbered experts")


@law(_cases)
def shift_invariance(route: RoutingSubject, x: LogitsCase) -> None:
    """Adding a number to all logits changes neither experts nor gates."""
    shift = np.float32(x.rng.choice([-64, 16]))
    experts, gates = route(x.logits + shift, x.number)
    wanted, wanted_gates = route(x.logits, x.number)
    _assert_experts(experts, wanted, x.logits + shift)
    assert_close(gates, wanted_gates, atol=TOLERANCE, what=f"gates of x + {shift:g}")


@law(_cases)
def large_logits(route: RoutingSubject, x: LogitsCase) -> None:
    """Logits of tens of thousands do not overflow: the most likely expert has gate 1."""
    _, gates = route(x.logits * np.float32(20_000), x.number)
    wanted = np.zeros_like(gates)
    wanted[:, 0] = 1
    assert_close(gates, wanted, atol=TOLERANCE, what="gates of 20000 x")


@law(_cases)
def gates_in_float32(route: RoutingSubject, x: LogitsCase) -> None:
    """bfloat16 logits give the experts and the gates of the same logits in float32."""
    half = x.logits.astype(jnp.bfloat16)
    got: tuple[Any, Any] = route(half, x.number)
    wanted = route(half.astype(np.float32), x.number)
    if got[1].dtype != np.float32:
        raise Violation(f"gates: got {got[1].dtype}; wanted float32")
    _assert_experts(got[0], wanted[0], half)
    assert_close(got[1], wanted[1], atol=TOLERANCE, what="gates of bfloat16 logits")


routing = Suite(
    "routing",
    "route(logits [B, E], k int) -> (experts int [B, k], gates [B, k])",
    RoutingSubject,
    (
        most_likely_experts,
        ties_by_index,
        gates_are_probabilities,
        permutation_equivariance,
        shift_invariance,
        large_logits,
        gates_in_float32,
    ),
)
