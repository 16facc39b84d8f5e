"""The laws of logits processors, ``process(logits, tokens, length, step) -> logits``.

Wrap a function with other arguments, such as ``(input_ids, scores)``::

    lambda logits, tokens, length, step: processor(tokens[:, : int(length)], logits)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function
from tfm_jax.laws.suites.cases.logits import PADDING, HistoryCase, LogitsSubject, histories

__all__ = ["ProcessorSubject", "logits_processor"]

any_case = histories()
batched_case = histories(shapes=((2, 3, 5),))


class ProcessorSubject(LogitsSubject):
    """A logits processor, ``function(logits, tokens, length, step)``.

    Args:
      function: takes JAX arrays logits [B, V], tokens int32 [B, M] and the int32 scalars length and step;
        returns an array like the logits.
    """

    def of(self, x: HistoryCase, **changes: Any) -> np.ndarray:
        """The output for a case, with some of its fields changed."""
        return self(*_arguments(dataclasses.replace(x, **changes)))

    @functools.cached_property
    def per_example(self) -> Function:
        """``raw`` under jit and vmap over the batch, all examples at the same length and step."""

        def alone(logits: AnyArray, tokens: AnyArray, *rest: object) -> Any:
            return self.raw(logits[None], tokens[None], *rest)[0]

        return jax.jit(jax.vmap(alone, (0, 0, None, None)))


def _arguments(x: HistoryCase) -> tuple[np.ndarray, ...]:
    return x.logits, x.tokens, np.asarray(x.length, np.int32), np.asarray(x.step, np.int32)


@law(any_case, severity="contract")
def dtype_is_preserved(process: ProcessorSubject, x: HistoryCase) -> None:
    """The output has the dtype of the logits, float32 or bfloat16."""
    for dtype in (np.float32, jnp.bfloat16):
        out = process.of(x, logits=x.logits.astype(dtype))
        if out.dtype != dtype:
            raise Violation(f"dtype: got {out.dtype}; wanted {np.dtype(dtype)}")


@law(any_case)
def masked_tokens_stay_masked(process: ProcessorSubject, x: HistoryCase) -> None:
    """A masked token (-inf) stays masked, and does not become NaN."""
    masked = np.isneginf(x.some_masked)
    got = process.of(x, logits=x.some_masked)
    assert_close(got[masked], -np.inf, what=f"output of {show(x.some_masked)} at masked tokens")


@law(any_case)
def at_least_one_token(process: ProcessorSubject, x: HistoryCase) -> None:
    """An example with an unmasked token keeps at least one unmasked."""
    got = process.of(x, logits=x.some_masked)
    if (got == -np.inf).all(-1).any():
        raise Violation(f"output of {show(x.some_masked)}: got {show(got)}; wanted an unmasked token in each")


@law(batched_case)
def examples_are_independent(process: ProcessorSubject, x: HistoryCase) -> None:
    """An example gives the same output in a batch as alone."""
    got = process.of(x)
    for b in range(len(got)):
        alone = process.of(x, logits=x.logits[b : b + 1], tokens=x.tokens[b : b + 1])
        what = f"output of example {b}, compared with its output alone"
        assert_close(got[b : b + 1], alone, atol=TOLERANCE, what=what)


@law(batched_case, severity="contract")
def nan_stays_in_its_example(process: ProcessorSubject, x: HistoryCase) -> None:
    """NaN among the logits of one example reaches no other example."""
    b, logits = _with_a_nan(x)
    got, wanted = process.of(x, logits=logits), process.of(x)
    others = np.arange(len(got)) != b
    assert_close(got[others], wanted[others], what=f"output of the others, with NaN in example {b}")


@law(any_case, severity="contract")
def nan_is_not_hidden(process: ProcessorSubject, x: HistoryCase) -> None:
    """NaN among the logits of an example gives NaN in its output, so that the error is seen."""
    b, logits = _with_a_nan(x)
    got = process.of(x, logits=logits)[b]
    if not np.isnan(got).any():
        raise Violation(f"output of {show(logits[b])}: got {show(got)}; wanted a NaN")


def _with_a_nan(x: HistoryCase) -> tuple[int, np.ndarray]:
    example, token = (int(x.rng.integers(n)) for n in x.logits.shape)
    logits = x.logits.copy()
    logits[example, token] = np.nan
    return example, logits


@law(any_case)
def tokens_after_length_are_ignored(process: ProcessorSubject, x: HistoryCase) -> None:
    """Tokens past the length change nothing."""
    other = x.tokens.copy()
    other[:, x.length :] = x.rng.integers(0, x.V, other[:, x.length :].shape)
    assert_close(process.of(x, tokens=other), process.of(x), what=f"output with tokens = {other.tolist()}")


@law(any_case)
def padding_is_ignored(process: ProcessorSubject, x: HistoryCase) -> None:
    """More left padding (-1) changes nothing."""
    padding = np.full((len(x.tokens), 2), PADDING, np.int32)
    got = process.of(x, tokens=np.concatenate([padding, x.tokens], axis=1), length=x.length + 2)
    assert_close(got, process.of(x), atol=TOLERANCE, what="output with two more positions of padding")


@law(any_case)
def deterministic(process: ProcessorSubject, x: HistoryCase) -> None:
    """The same arguments give the same output in every call: the processor has no state."""
    assert_close(process.of(x), process.of(x), what="output of the second call")


@law(any_case)
def compiled_matches_eager(process: ProcessorSubject, x: HistoryCase) -> None:
    """Under jit, and under vmap over the batch, the output is that of the plain call."""
    plain = process.of(x)
    for name, call in {"jit": process.compiled, "vmap": process.per_example}.items():
        got = process.run(lambda call=call: np.asarray(call(*map(jnp.asarray, _arguments(x)))))
        assert_close(got, plain, atol=TOLERANCE, what=f"output under {name}")


logits_processor = Suite(
    "logits_processor",
    "process(logits [B, V], tokens int32 [B, M], length int32, step int32) -> [B, V]; tokens[:, :length] are "
    "the tokens so far, -1 at left padding, the last step of them generated; a processor that forces a token "
    "need not keep masked tokens masked, one that bans tokens may mask all",
    ProcessorSubject,
    (
        dtype_is_preserved,
        masked_tokens_stay_masked,
        at_least_one_token,
        examples_are_independent,
        nan_stays_in_its_example,
        nan_is_not_hidden,
        tokens_after_length_are_ignored,
        padding_is_ignored,
        deterministic,
        compiled_matches_eager,
    ),
)
