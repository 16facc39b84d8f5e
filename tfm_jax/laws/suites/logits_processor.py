"""The laws of what is done to logits before a token is chosen, whatever it is.

A function of another form is asked through a wrapper, such as one of ``(input_ids, scores)``::

    lambda logits, tokens, length, step: processor(tokens[:, : int(length)], logits)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same, show
from tfm_jax.laws.suites.cases.logits import HOLE, HistoryCase, LogitsSubject, histories

__all__ = ["ProcessorSubject", "logits_processor"]

some = histories()
several = histories(shapes=((2, 3, 5),))


class ProcessorSubject(LogitsSubject):
    """A processor as its laws ask it.

    Args:
      function: takes JAX arrays, logits [B, V], tokens int32 [B, M] and the int32 scalars length and step;
        gives an array like the logits.
    """

    def of(self, x: HistoryCase, **changed: Any) -> np.ndarray:
        """What it makes of a case, of which some parts may be changed."""
        return self(*_arguments(dataclasses.replace(x, **changed)))

    @functools.cached_property
    def mapped_rows(self) -> Callable[..., Any]:
        """``raw`` under jit and vmap, a row at a time, each at the same length and step."""
        alone = lambda logits, tokens, *rest: self.raw(logits[None], tokens[None], *rest)[0]
        return jax.jit(jax.vmap(alone, (0, 0, None, None)))


def _arguments(x: HistoryCase) -> tuple[np.ndarray, ...]:
    return x.logits, x.tokens, np.asarray(x.length, np.int32), np.asarray(x.step, np.int32)


@law(some)
def dtype_is_kept(process: ProcessorSubject, x: HistoryCase) -> None:
    """The output has the shape and the dtype of the logits, in bfloat16 too."""
    for dtype in (np.float32, jnp.bfloat16):
        out = process.of(x, logits=x.logits.astype(dtype))
        if out.dtype != dtype:
            raise Violation(f"dtype: got {out.dtype}, wanted {np.dtype(dtype)}")


@law(some)
def closed_stays_closed(process: ProcessorSubject, x: HistoryCase) -> None:
    """A token that is closed (-inf) stays closed, and is not nan."""
    closed = np.isneginf(x.some_closed)
    got = process.of(x, logits=x.some_closed)
    same(got[closed], -np.inf, what=f"output of {show(x.some_closed)} where it is closed")


@law(some)
def something_stays_open(process: ProcessorSubject, x: HistoryCase) -> None:
    """In a row where a token is open, one stays open."""
    got = process.of(x, logits=x.some_closed)
    if (got == -np.inf).all(-1).any():
        raise Violation(f"output: got {show(got)} of {show(x.some_closed)}, wanted an open token in each row")


@law(several)
def rows_of_a_batch(process: ProcessorSubject, x: HistoryCase) -> None:
    """A row of a batch gives what it gives alone, wherever it stands."""
    got = process.of(x)
    for b in range(len(got)):
        alone = process.of(x, logits=x.logits[b : b + 1], tokens=x.tokens[b : b + 1])
        same(got[b : b + 1], alone, atol=TOLERANCE, what=f"output of row {b}, beside that of it alone")


@law(several)
def a_nan_poisons_its_row_alone(process: ProcessorSubject, x: HistoryCase) -> None:
    """A nan among the logits of a row reaches no other row."""
    row, poisoned = _with_a_nan(x)
    got, wanted = process.of(x, logits=poisoned), process.of(x)
    others = np.arange(len(got)) != row
    same(got[others], wanted[others], what=f"output of the rows beside row {row}, which has a nan")


@law(some)
def a_nan_is_not_hidden(process: ProcessorSubject, x: HistoryCase) -> None:
    """A row with a nan comes out with a nan: what went wrong in the model is seen."""
    row, poisoned = _with_a_nan(x)
    got = process.of(x, logits=poisoned)[row]
    if not np.isnan(got).any():
        raise Violation(f"output: got {show(got)} of {show(poisoned[row])}, wanted a nan in it")


def _with_a_nan(x: HistoryCase) -> tuple[int, np.ndarray]:
    row, token = (int(x.rng.integers(n)) for n in x.logits.shape)
    logits = x.logits.copy()
    logits[row, token] = np.nan
    return row, logits


@law(some)
def behind_the_length(process: ProcessorSubject, x: HistoryCase) -> None:
    """What stands behind the length is not read."""
    other = x.tokens.copy()
    other[:, x.length :] = x.rng.integers(0, x.V, other[:, x.length :].shape)
    same(process.of(x, tokens=other), process.of(x), what=f"output with tokens = {other.tolist()}")


@law(some)
def padding(process: ProcessorSubject, x: HistoryCase) -> None:
    """Holes (-1) in front of the rows, which padding leaves, change nothing."""
    holes = np.full((len(x.tokens), 2), HOLE, np.int32)
    got = process.of(x, tokens=np.concatenate([holes, x.tokens], axis=1), length=x.length + 2)
    same(got, process.of(x), atol=TOLERANCE, what="output with two more holes in front")


@law(some)
def same_again(process: ProcessorSubject, x: HistoryCase) -> None:
    """Asked again it gives the same: it remembers nothing."""
    same(process.of(x), process.of(x), what="output, asked again")


@law(some)
def compiled_is_eager(process: ProcessorSubject, x: HistoryCase) -> None:
    """jit, and vmap over the rows, give what the plain call gives."""
    plain = process.of(x)
    for name, call in {"jit": process.compiled, "vmap": process.mapped_rows}.items():
        got = process.given(lambda call=call: np.asarray(call(*map(jnp.asarray, _arguments(x)))))
        same(got, plain, atol=TOLERANCE, what=f"output under {name}")


logits_processor = Suite(
    "logits_processor",
    "process(logits [B, V], tokens int32 [B, M], length int32, step int32) -> [B, V], tokens[:, :length] the "
    "rows so far, -1 where padding left a hole, the last step of them generated; some promise less: what "
    "forces a token opens it, and what forbids tokens may close them all",
    ProcessorSubject,
    (
        dtype_is_kept,
        closed_stays_closed,
        something_stays_open,
        rows_of_a_batch,
        a_nan_poisons_its_row_alone,
        a_nan_is_not_hidden,
        behind_the_length,
        padding,
        same_again,
        compiled_is_eager,
    ),
)
