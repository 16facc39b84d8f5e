"""Cases of models of tokens, with and without padding, their subject, and the laws that they share."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Law, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = [
    "COMPILED_LENGTHS",
    "IDS",
    "TOLERANCE",
    "ModelSubject",
    "TokensCase",
    "assert_all_changed",
    "cases",
    "model_laws",
    "padding_laws",
]

TOLERANCE = 1e-4  # for a model's float32 outputs near 1, in any order of summation
IDS = 7
"""The number of token ids in the cases: 0 to 6."""
# B, T, the simplest first. Few, because each is compiled separately.
SHAPES = ((1, 1), (1, 2), (1, 3), (2, 3), (1, 5))
COMPILED_LENGTHS = (1, 2, 3, 5)
"""The lengths T of the cases."""
LONGER = {1: 2, 2: 3, 3: 5}  # the next length


@dataclasses.dataclass(frozen=True)
class TokensCase(Seeded):
    """The arguments of one call of a model."""

    tokens: np.ndarray  # int32 [B, T]
    valid: np.ndarray | None  # bool [B, T]; None where the function takes none
    seed: int

    @property
    def arguments(self) -> tuple[np.ndarray, ...]:
        """The positional arguments of the call."""
        return (self.tokens,) if self.valid is None else (self.tokens, self.valid)

    @property
    def mask(self) -> np.ndarray:
        """``valid``; all True where the function takes none."""
        return np.ones(self.tokens.shape, bool) if self.valid is None else self.valid

    def with_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arguments with other tokens."""
        return (tokens, *self.arguments[1:])

    def changed_tokens(self, at: Any) -> np.ndarray:
        """The tokens, each one at ``at``, an index of the last axis, replaced by another one."""
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
    padded: Literal["left", "right"] | None = None,
    full: bool = False,
) -> TokensCase:
    """Random tokens of the shapes (B, T) that fit.

    ``padded``, "left" or "right", adds ``valid`` with padding on that side, or all True if ``full``.
    """
    B, T = draw(st.sampled_from([shape for shape in SHAPES if fits(*shape)]))
    seed = draw(strategies.seeds())
    tokens = draw(strategies.tokens(B, T, vocab_size=IDS, seed=seed))
    if padded is None:
        return TokensCase(tokens, None, seed)
    valid = np.ones((B, T), bool) if full else draw(strategies.valid(B, T, side=padded))
    return TokensCase(tokens, valid, seed)


class ModelSubject(Subject):
    """A model of tokens, ``function(tokens)`` or ``function(tokens, valid)``.

    Args:
      function: takes int32 tokens [B, T], and ``valid`` where its suite says so; returns [B, T, ...], or
        [B, ...] unless ``per_token``.
      tokens: maps ids from 0 to 6 to tokens of the function's vocabulary, in which some of these ids may be
        special.
      per_token: whether the output has an axis T.
    """

    def __init__(
        self,
        function: Function,
        *,
        tokens: Callable[[Any], Any] = lambda ids: ids,
        per_token: bool = True,
    ):
        super().__init__(function)
        self.tokens, self.per_token = tokens, per_token

    def __call__(self, tokens: AnyArray, *rest: object) -> np.ndarray:
        """The output, its shape checked."""
        out = super().__call__(tokens, *rest)
        letters, n = ("[B, T, ...]", 2) if self.per_token else ("[B, ...]", 1)
        if np.ndim(out) != n + 1 or np.shape(out)[:n] != tokens.shape[:n]:
            raise Violation(
                f"shape: got {list(np.shape(out))} for {list(tokens.shape)} tokens; wanted {letters}"
            )
        return out

    def raw(self, tokens: AnyArray, *rest: object) -> Any:
        """The function, called with tokens of its vocabulary."""
        return self.function(self.tokens(jnp.asarray(tokens)), *rest)


def assert_all_changed(got: np.ndarray, before: np.ndarray, what: str) -> None:
    """Raises ``Violation`` where one of the vectors [..., D] is the same as before."""
    apart = np.abs(got.astype(np.float64) - before).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(f"{what}: got changes of {show(apart)}; wanted more than 0")


def model_laws(draws: Function) -> tuple[Law, ...]:
    """The laws of every model; ``draws`` is ``cases`` with its options."""

    @law(draws(lambda B, T: B > 1))
    def examples_are_independent(model: ModelSubject, x: TokensCase) -> None:
        """An example gives the same output in a batch as alone."""
        alone = [model(*(y[b : b + 1] for y in x.arguments)) for b in range(len(x.tokens))]
        assert_close(model(*x.arguments), np.concatenate(alone), atol=TOLERANCE)

    @law(draws())
    def deterministic(model: ModelSubject, x: TokensCase) -> None:
        """The same tokens give the same output in every call."""
        assert_close(model(*x.arguments), model(*x.arguments), what="output of the second call")

    @law(draws())
    def compiled_matches_eager(model: ModelSubject, x: TokensCase) -> None:
        """Under jit the output is that of the plain call."""
        got = model.run(lambda: np.asarray(model.compiled(*x.arguments)))
        assert_close(got, model(*x.arguments), atol=TOLERANCE, what="output under jit")

    return examples_are_independent, deterministic, compiled_matches_eager


def padding_laws(side: str, draws: Function) -> tuple[Law, ...]:
    """The laws of models that take ``valid``, with padding on the "left" or the "right"."""

    def at_valid(out: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.where(valid[..., None], out, 0) if out.ndim == 3 else out

    @law(draws())
    def padding_is_ignored(model: ModelSubject, x: TokensCase) -> None:
        """The token ids at padding do not change the output by one bit."""
        tokens = np.where(x.mask, x.tokens, x.changed_tokens(slice(None)))
        got, wanted = (at_valid(model(y, x.mask), x.mask) for y in (tokens, x.tokens))
        assert_close(got, wanted, what="output at valid positions, with other tokens at padding")

    @law(draws(lambda B, T: B == 1 and T in LONGER))
    def padding_length_does_not_matter(model: ModelSubject, x: TokensCase) -> None:
        """The amount of padding changes nothing."""
        T = x.tokens.shape[1]
        extra = LONGER[T] - T
        widths = ((0, 0), (extra, 0) if side == "left" else (0, extra))
        out = model(np.pad(x.tokens, widths), np.pad(x.mask, widths))
        if out.ndim == 3:
            out = out[:, extra:] if side == "left" else out[:, :T]
        what = f"output at valid positions, with {extra} more positions of padding"
        assert_close(at_valid(out, x.mask), at_valid(model(*x.arguments), x.mask), atol=TOLERANCE, what=what)

    return padding_is_ignored, padding_length_does_not_matter
