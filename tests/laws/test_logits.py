"""What is done to logits keeps its laws: our functions, our processors; and strangers can be asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from tests.marks import slow_but
from tfm_jax import generate, laws, ops

EXAMPLES = settings().max_examples
FORCED = ("closed_stays_closed", "a_nan_is_not_hidden")  # a forced token's logit is 0, whatever it was
CLOSING = ("something_stays_open",)

# name: (a processor, the laws that it does not promise)
PROCESSORS = {
    "temperature": (generate.Temperature(0.7), ()),
    "top_k": (generate.TopK(2), ()),
    "top_p": (generate.TopP(0.6), ()),
    "min_p": (generate.MinP(0.3), ()),
    "repetition": (generate.RepetitionPenalty(1.4), ()),
    "frequency": (generate.FrequencyPenalty(0.3), ()),
    "ngrams": (generate.NoRepeatNgram(1), CLOSING),
    "bigrams": (generate.NoRepeatNgram(2), CLOSING),
    "min_length": (generate.MinLength(3, (1,)), CLOSING),
    "suppress": (generate.Suppress((0,)), CLOSING),
    "suppress_first": (generate.SuppressFirst((0,)), CLOSING),
    "after_forced": (generate.SuppressFirst((0,), after_forced=True), CLOSING),
    "force_first": (generate.ForceFirst(1), FORCED),
    "force_last": (generate.ForceLast((0, 1)), FORCED),
    "bad_words": (generate.BadWords(((1,), (0, 0))), CLOSING),
    "renormalize": (generate.Renormalize(), ()),
}


def called(processor):
    """A processor of ours as the laws call one."""
    return lambda logits, tokens, length, step: processor(logits, generate.Context(tokens, length, step))


def keeps(function, suite):
    report = laws.check(function, suite, examples=EXAMPLES)
    assert report.ok, report


# The two that are left out have another of their kind beside them.
@pytest.mark.parametrize(
    "name", slow_but([name for name in PROCESSORS if name not in ("bigrams", "after_forced")], PROCESSORS)
)
def test_processors(name):
    processor, unpromised = PROCESSORS[name]
    suite, eager = laws.logits_processor, "compiled_is_eager"
    # Under jit, for without it each operation would be sent off alone; few cases say that it is the same.
    compiled = jax.jit(called(processor))
    keeps(compiled, suite.only(*(each.name for each in suite if each.name not in (eager, *unpromised))))
    assert laws.check(called(processor), suite.only(eager), examples=2).ok
    report = laws.check(compiled, suite.only(*unpromised), examples=400)
    assert report.broken == unpromised, f"it promises more than it is said to:\n{report}"


@laws.holds(laws.logits_processor, examples=EXAMPLES)
def test_processors_one_after_the_other():
    kinds = ("repetition", "temperature", "top_k", "top_p", "min_p", "renormalize")
    processors = [PROCESSORS[kind][0] for kind in kinds]
    return jax.jit(called(lambda logits, context: generate.apply_processors(processors, logits, context)))


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_functions_of_a_number(name):
    keeps(jax.jit(getattr(ops, name)), laws.SUITES[name])


def test_top_k():
    keeps(jax.jit(ops.top_k, static_argnums=1), laws.top_k)


def test_penalties():
    def counts(logits, tokens):
        return ops.token_counts(tokens, logits.shape[-1])

    repetition = lambda x, tokens, penalty: ops.repetition_penalty(x, counts(x, tokens) > 0, penalty)
    frequency = lambda x, tokens, penalty: ops.frequency_penalty(x, counts(x, tokens), penalty)
    keeps(jax.jit(repetition), laws.repetition_penalty)
    keeps(jax.jit(frequency), laws.frequency_penalty)


def test_no_repeat_ngram():
    keeps(jax.jit(ops.no_repeat_ngram, static_argnums=3), laws.no_repeat_ngram)


@dataclasses.dataclass
class Penalty:
    """Of the form (input_ids, scores), in NumPy: a padding that is no token is not known there."""

    penalty: float

    def __call__(self, input_ids, scores):
        scores = scores.copy()
        for row, ids in zip(scores, input_ids, strict=True):
            for token in set(ids.tolist()):
                row[token] = row[token] / self.penalty if row[token] > 0 else row[token] * self.penalty
        return scores


def wrapped(processor):
    return lambda logits, tokens, length, step: processor(
        np.asarray(tokens)[:, : int(length)], np.asarray(logits)
    )


def test_a_stranger_of_ids_and_scores_is_asked_through_a_wrapper():
    report = laws.check(wrapped(Penalty(1.5)), laws.logits_processor, examples=EXAMPLES)
    assert report.broken == ("padding",), report  # -1 is the last token to it
    assert report.unasked == ("compiled_is_eager",), report


def test_a_counter_example_is_small_and_says_what_came_before():
    worst = lambda logits, tokens, length, step: jnp.where(logits < 0, 0, logits)
    (found,) = laws.check(worst, laws.logits_processor.only("masked_tokens_stay_masked")).findings
    lines = found.counter_example.splitlines()
    assert lines[0] == "B = 1, V = 2" and lines[1].startswith("logits = [[")
    assert lines[2].startswith("tokens = [[") and lines[2].endswith("-1, -1, -1]], length = 1, step = 0")
    assert lines[3].startswith("output of ") and "got [0.], wanted [-inf]" in lines[3]
