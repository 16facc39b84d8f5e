"""What the laws of models are tried on: rows of tokens, some of them padding; and the laws that all share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Law, Violation, law, same, show
from tfm_jax.laws.subject import Subject
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = [
    "IDS",
    "TOLERANCE",
    "ModelSubject",
    "TokensCase",
    "cases",
    "changed",
    "of_every_model",
    "of_padding",
]

TOLERANCE = 1e-4  # of a model's numbers near 1 in float32, whatever the order of its sums
IDS = 7
"""Tokens in the cases: ids from 0 to 6."""
# B, T, the simplest first: few, for each is compiled by itself.
SHAPES = ((1, 1), (1, 2), (1, 3), (2, 3), (1, 5))
LONGER = {1: 2, 2: 3, 3: 5}  # lengths that are compiled anyway


@dataclasses.dataclass(frozen=True)
class TokensCase(Seeded):
    """Arguments of one call, and what a law wants beside them."""

    tokens: np.ndarray  # int32 [B, T]
    valid: np.ndarray | None  # bool [B, T]; None where the function takes none
    seed: int

    @property
    def arguments(self) -> tuple[np.ndarray, ...]:
        """What the function is called with."""
        return (self.tokens,) if self.valid is None else (self.tokens, self.valid)

    def with_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arguments with other tokens."""
        return (tokens, *self.arguments[1:])

    def another(self, at: Any) -> np.ndarray:
        """The tokens with others than they were at ``at``, an index of their last axis."""
        tokens = self.tokens.copy()
        tokens[:, at] = (tokens[:, at] + 1 + self.seed % (IDS - 1)) % IDS
        return tokens

    def __str__(self) -> str:
        lines = [f"tokens = {self.tokens.tolist()}"]
        if self.valid is not None:
            lines.append(f"valid = {self.valid.astype(int).tolist()}")
        return "\n".join(lines)


@st.composite
def cases(
    draw,
    fits: Callable[[int, int], bool] = lambda B, T: True,
    padded: str | None = None,
    full: bool = False,
) -> TokensCase:
    """Tokens of the shapes (B, T) that fit; ``padded``, "left" or "right", gives them ``valid``, in which all
    is True if ``full``."""
    B, T = draw(st.sampled_from([shape for shape in SHAPES if fits(*shape)]))
    seed = draw(SEEDS)
    tokens = np.random.default_rng(seed).integers(0, IDS, (B, T)).astype(np.int32)
    if padded is None:
        return TokensCase(tokens, None, seed)
    lengths = [T] * B if full else draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
    valid = np.arange(T)[None] < np.array(lengths)[:, None]
    return TokensCase(tokens, valid if padded == "right" else valid[:, ::-1].copy(), seed)


class ModelSubject(Subject):
    """A model of tokens, asked as its laws ask it.

    Args:
      function: takes int32 tokens [B, T], beside them ``valid`` where its suite says so; gives an array of as
        many rows and, where it gives something a token, of as many tokens.
      tokens: makes of ids from 0 to 6 the tokens that the function takes: for a vocabulary in which some of
        these ids mean something else.
      per_token: whether it gives something a token.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        tokens: Callable[[Any], Any] = lambda ids: ids,
        per_token: bool = True,
    ):
        super().__init__(function)
        self.tokens, self.per_token = tokens, per_token

    def __call__(self, tokens: Any, *rest: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        out = super().__call__(tokens, *rest)
        letters, n = ("[B, T, ...]", 2) if self.per_token else ("[B, ...]", 1)
        if np.ndim(out) != n + 1 or np.shape(out)[:n] != tokens.shape[:n]:
            raise Violation(
                f"shape: got {list(np.shape(out))} of {list(tokens.shape)} tokens, wanted {letters}"
            )
        return out

    def raw(self, tokens: Any, *rest: Any) -> Any:
        """The function itself, its tokens made."""
        return self.function(self.tokens(jnp.asarray(tokens)), *rest)


def changed(got: np.ndarray, before: np.ndarray, what: str) -> None:
    """Raises ``Violation`` where one of the vectors [..., D] is what it was before."""
    apart = np.abs(got.astype(np.float64) - before).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(f"{what}: changed by {show(apart)}, wanted more than 0")


def of_every_model(draws: Callable[..., Any]) -> tuple[Law, ...]:
    """The laws that hold of every model, whatever it gives; ``draws`` is ``cases`` with its options."""

    @law(draws(lambda B, T: B > 1))
    def rows_of_a_batch(model: ModelSubject, x: TokensCase) -> None:
        """A row of a batch gives what it gives alone."""
        alone = [model(*(y[b : b + 1] for y in x.arguments)) for b in range(len(x.tokens))]
        same(model(*x.arguments), np.concatenate(alone), atol=TOLERANCE)

    @law(draws())
    def same_twice(model: ModelSubject, x: TokensCase) -> None:
        """The same tokens give the same numbers: nothing is left to chance."""
        same(model(*x.arguments), model(*x.arguments), what="output of the second call")

    @law(draws())
    def compiled_is_eager(model: ModelSubject, x: TokensCase) -> None:
        """jit gives what the plain call gives."""
        got = model.given(lambda: np.asarray(model.compiled(*x.arguments)))
        same(got, model(*x.arguments), atol=TOLERANCE, what="output under jit")

    return rows_of_a_batch, same_twice, compiled_is_eager


def of_padding(side: str, draws: Callable[..., Any]) -> tuple[Law, ...]:
    """The laws of models that are told what is padding, on the "left" or the "right"."""

    def at_valid(out: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.where(valid[..., None], out, 0) if out.ndim == 3 else out

    @law(draws())
    def padding_is_not_read(model: ModelSubject, x: TokensCase) -> None:
        """Which tokens stand at padding changes nothing, by not one bit."""
        tokens = np.where(x.valid, x.tokens, x.another(slice(None)))
        got, wanted = (at_valid(model(y, x.valid), x.valid) for y in (tokens, x.tokens))
        same(got, wanted, what="output where it is valid, with other tokens at padding")

    @law(draws(lambda B, T: B == 1 and T in LONGER))
    def more_padding(model: ModelSubject, x: TokensCase) -> None:
        """How much padding stands beside a row changes nothing."""
        T = x.tokens.shape[1]
        more = LONGER[T] - T
        widths = ((0, 0), (more, 0) if side == "left" else (0, more))
        out = model(np.pad(x.tokens, widths), np.pad(x.valid, widths))
        if out.ndim == 3:
            out = out[:, more:] if side == "left" else out[:, :T]
        what = f"output where it is valid, with {more} more of padding"
        same(at_valid(out, x.valid), at_valid(model(*x.arguments), x.valid), atol=TOLERANCE, what=what)

    return padding_is_not_read, more_padding
