"""The laws of a mixture of experts without dropped tokens, ``f(x, experts, gates, w_in, w_out) -> y``."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["MixtureSubject", "mixture_of_experts"]

SHAPES = ((1, 1, 2, 3, 2, 1), (1, 3, 2, 3, 3, 2), (2, 5, 4, 6, 4, 2))  # B, T, D, F, E, k, the simplest first
TOLERANCE = 1e-4
Arguments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MixtureCase(Seeded):
    """Tokens, the experts and gates of each, and the weights of the experts."""

    x: np.ndarray  # float32 [B, T, D]
    experts: np.ndarray  # int32 [B, T, k], those of a token all different
    gates: np.ndarray  # float32 [B, T, k]
    w_in: np.ndarray  # float32 [E, D, F]
    w_out: np.ndarray  # float32 [E, F, D]
    seed: int

    @property
    def arguments(self) -> Arguments:
        """What the function is called with."""
        return self.x, self.experts, self.gates, self.w_in, self.w_out

    @property
    def some_token(self) -> tuple[int, int]:
        """The indices (b, t) of one token, the same for the same case."""
        b, t = np.unravel_index(self.seed % (self.x.shape[0] * self.x.shape[1]), self.x.shape[:2])
        return int(b), int(t)

    def __str__(self) -> str:
        sizes = ", ".join(f"{a} = {n}" for a, n in zip("BTD", self.x.shape, strict=True))
        E, k = len(self.w_in), self.experts.shape[-1]
        return f"{sizes}, E = {E}, k = {k}\nexperts = {self.experts.tolist()}\nx = {show(self.x)}"


@st.composite
def cases(draw) -> MixtureCase:
    """Random tokens, choices and weights."""
    B, T, D, F, E, k = draw(st.sampled_from(SHAPES))
    seed = draw(strategies.seeds())
    rng = np.random.default_rng(seed)
    experts = rng.permuted(np.tile(np.arange(E, dtype=np.int32), (B, T, 1)), axis=-1)[..., :k]
    x, gates, w_in, w_out = (
        draw(strategies.normal(shape, seed=rng)) for shape in ((B, T, D), (B, T, k), (E, D, F), (E, F, D))
    )
    return MixtureCase(x, experts, np.abs(gates) + np.float32(0.25), w_in, w_out, seed)


class MixtureSubject(Subject):
    """A mixture of experts, ``function(x, experts, gates, w_in, w_out)``, with any activation."""

    def __call__(self, x: AnyArray, *rest: AnyArray) -> np.ndarray:
        """The output, its shape checked, as an array that can be written."""
        return check_shape(super().__call__(x, *rest), x.shape, "[B, T, D]").copy()


@law(cases())
def tokens_are_independent(f: MixtureSubject, x: MixtureCase) -> None:
    """The output of a token does not depend on the others, even where all choose its experts."""
    at = x.some_token
    others = x.rng.standard_normal(x.x.shape).astype(np.float32)
    others[at] = x.x[at]
    experts = np.broadcast_to(x.experts[at], x.experts.shape)
    got = f(others, experts, x.gates, x.w_in, x.w_out)[at]
    what = f"output at {list(at)}, with other tokens of the same experts"
    assert_close(got, f(*x.arguments)[at], atol=TOLERANCE, what=what)


@law(cases(), severity="contract")
def nan_reaches_no_other_token(f: MixtureSubject, x: MixtureCase) -> None:
    """A token with NaN does not change the output of the others."""
    at = x.some_token
    poisoned, wanted = x.x.copy(), f(*x.arguments)
    poisoned[at] = np.nan
    wanted[at] = 0
    got = f(poisoned, *x.arguments[1:])
    got[at] = 0
    assert_close(got, wanted, atol=TOLERANCE, what=f"output with NaN at {list(at)}")


@law(cases())
def choices_add_up(f: MixtureSubject, x: MixtureCase) -> None:
    """The output of k experts is the sum of those of each alone."""
    tokens, experts, gates, *weights = x.arguments
    alone = [
        f(tokens, experts[..., [j]], gates[..., [j]], *weights).astype(np.float64)
        for j in range(experts.shape[-1])
    ]
    assert_close(f(*x.arguments), np.sum(alone, axis=0), atol=TOLERANCE)


@law(cases())
def linear_in_the_gates(f: MixtureSubject, x: MixtureCase) -> None:
    """Twice the gates give twice the output, gates of 0 give 0."""
    tokens, experts, gates, *weights = x.arguments
    wanted = f(*x.arguments)
    for factor in (2, 0):
        got = f(tokens, experts, np.float32(factor) * gates, *weights)
        assert_close(got, factor * wanted, atol=TOLERANCE, what=f"output of {factor} x the gates")


@law(cases())
def each_token_has_its_gates(f: MixtureSubject, x: MixtureCase) -> None:
    """The gates of one token change its output, and that of no other."""
    at = x.some_token
    gates, wanted = x.gates.copy(), f(*x.arguments)
    gates[at] *= 3
    wanted[at] *= 3
    got = f(x.x, x.experts, gates, x.w_in, x.w_out)
    assert_close(got, wanted, atol=TOLERANCE, what=f"output with 3 x the gates of {list(at)}")


@law(cases())
def renumbered_experts(f: MixtureSubject, x: MixtureCase) -> None:
    """Renumbering the experts, with their weights, changes nothing."""
    order = x.rng.permutation(len(x.w_in))
    experts = np.argsort(order).astype(np.int32)[x.experts]
    got = f(x.x, experts, x.gates, x.w_in[order], x.w_out[order])
    assert_close(got, f(*x.arguments), atol=TOLERANCE, what="output of renumbered experts")


@law(cases())
def others_weights_do_not_matter(f: MixtureSubject, x: MixtureCase) -> None:
    """Experts that no token chooses can have any weights."""
    at = x.some_token
    experts = np.broadcast_to(x.experts[at], x.experts.shape)
    unused = np.setdiff1d(np.arange(len(x.w_in)), experts)
    w_in, w_out = x.w_in.copy(), x.w_out.copy()
    w_in[unused], w_out[unused] = 7, -7
    wanted = f(x.x, experts, x.gates, x.w_in, x.w_out)
    got = f(x.x, experts, x.gates, w_in, w_out)
    assert_close(got, wanted, atol=TOLERANCE, what=f"output with other weights of {unused.tolist()}")


@law(cases())
def one_expert_is_its_layer(f: MixtureSubject, x: MixtureCase) -> None:
    """Where all tokens choose one expert, the output is that of a mixture of this expert alone."""
    e = int(x.experts[x.some_token][0])
    first = x.experts[..., :1]
    got = f(x.x, np.full_like(first, e), x.gates[..., :1], x.w_in, x.w_out)
    wanted = f(x.x, np.zeros_like(first), x.gates[..., :1], x.w_in[[e]], x.w_out[[e]])
    assert_close(got, wanted, atol=TOLERANCE, what=f"output of expert {e} for all tokens")


@law(cases(), severity="contract")
def dtype_is_preserved(f: MixtureSubject, x: MixtureCase) -> None:
    """bfloat16 tokens and weights, with float32 gates, give bfloat16, close to the float32 output."""
    halves = [part.astype(jnp.bfloat16) for part in (x.x, x.w_in, x.w_out)]
    out = f(halves[0], x.experts, x.gates, *halves[1:])
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}; wanted bfloat16")
    wide = [part.astype(np.float32) for part in halves]
    wanted = f(wide[0], x.experts, x.gates, *wide[1:])
    limit = np.float32(0.05 * max(1.0, float(np.abs(wanted).max())))
    assert_close(out.astype(np.float32) / limit, wanted / limit, atol=1.0, what="output in bfloat16 / limit")


@law(cases())
def compiled_matches_eager(f: MixtureSubject, x: MixtureCase) -> None:
    """Under jit the output is that of the plain call."""
    got = f.run(lambda: np.asarray(f.compiled(*x.arguments)))
    assert_close(got, f(*x.arguments), atol=TOLERANCE, what="output under jit")


mixture_of_experts = Suite(
    "mixture_of_experts",
    "f(x [B, T, D], experts int [B, T, k], gates [B, T, k], w_in [E, D, F], w_out [E, F, D]) -> [B, T, D], "
    "without dropped tokens",
    MixtureSubject,
    (
        tokens_are_independent,
        nan_reaches_no_other_token,
        choices_add_up,
        linear_in_the_gates,
        each_token_has_its_gates,
        renumbered_experts,
        others_weights_do_not_matter,
        one_expert_is_its_layer,
        dtype_is_preserved,
        compiled_matches_eager,
    ),
)
