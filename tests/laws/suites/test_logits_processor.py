"""Logits processors of ``generate`` satisfy the laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from tests.laws.suites._assertions import assert_all_hold
from tests.marks import slow_but
from tfm_jax import generate, laws
from tfm_jax.generate.logits_processors import MinLength, apply_processors

EXAMPLES = settings().max_examples
FORCING = ("masked_tokens_stay_masked", "nan_is_not_hidden")  # the logit of a forced token becomes 0
BANNING = ("at_least_one_token",)

# Each processor, and the laws that it violates by design.
PROCESSORS = {
    "temperature": (generate.Temperature(0.7), ()),
    "top_k": (generate.TopK(2), ()),
    "top_p": (generate.TopP(0.6), ()),
    "min_p": (generate.MinP(0.3), ()),
    "repetition": (generate.RepetitionPenalty(1.4), ()),
    "frequency": (generate.FrequencyPenalty(0.3), ()),
    "ngrams": (generate.NoRepeatNgram(1), BANNING),
    "bigrams": (generate.NoRepeatNgram(2), BANNING),
    "min_length": (MinLength(3, (1,)), BANNING),
    "suppress": (generate.Suppress((0,)), BANNING),
    "suppress_first": (generate.SuppressFirst((0,)), BANNING),
    "after_forced": (generate.SuppressFirst((0,), after_forced=True), BANNING),
    "force_first": (generate.ForceFirst(1), FORCING),
    "force_last": (generate.ForceLast((0, 1)), FORCING),
    "bad_words": (generate.BadWords(((1,), (0, 0))), BANNING),
    "renormalize": (generate.Renormalize(), ()),
}


def as_function(processor):
    """A processor of ``generate``, with the arguments of the suite."""
    return lambda logits, tokens, length, step: processor(logits, generate.Context(tokens, length, step))


# The slow ones resemble another one.
@pytest.mark.parametrize(
    "name", slow_but([name for name in PROCESSORS if name not in ("bigrams", "after_forced")], PROCESSORS)
)
def test_processors(name):
    processor, violated = PROCESSORS[name]
    suite, eager = laws.logits_processor, "compiled_matches_eager"
    # Under jit, because eager calls are slow; few cases show that both are the same.
    compiled = jax.jit(as_function(processor))
    assert_all_hold(
        compiled, suite.only(*(each.name for each in suite if each.name not in (eager, *violated)))
    )
    assert laws.check(as_function(processor), suite.only(eager), examples=2).ok
    report = laws.check(compiled, suite.only(*violated), examples=400)
    assert report.violated == violated, f"it satisfies more laws than expected:\n{report}"


@laws.holds(laws.logits_processor, examples=EXAMPLES)
def test_sequence_of_processors():
    kinds = ("repetition", "temperature", "top_k", "top_p", "min_p", "renormalize")
    processors = [PROCESSORS[kind][0] for kind in kinds]
    return jax.jit(as_function(lambda logits, context: apply_processors(processors, logits, context)))


@dataclasses.dataclass
class Penalty:
    """A NumPy processor of (input_ids, scores), for which -1 is a token."""

    penalty: float

    def __call__(self, input_ids, scores):
        scores = scores.copy()
        for example, ids in zip(scores, input_ids, strict=True):
            for token in set(ids.tolist()):
                logit = example[token]
                example[token] = logit / self.penalty if logit > 0 else logit * self.penalty
        return scores


def wrapped(processor):
    return lambda logits, tokens, length, step: processor(
        np.asarray(tokens)[:, : int(length)], np.asarray(logits)
    )


def test_wrapped_processor_of_ids_and_scores():
    report = laws.check(wrapped(Penalty(1.5)), laws.logits_processor, examples=EXAMPLES)
    assert report.violated == ("padding_is_ignored",), report  # -1 indexes the last token
    assert report.unsupported == ("compiled_matches_eager",), report


def test_counterexample_shows_the_tokens():
    (found,) = laws.check(
        lambda logits, *rest: jnp.where(logits < 0, 0, logits),
        laws.logits_processor.only("masked_tokens_stay_masked"),
    ).findings
    lines = found.counterexample.splitlines()
    assert lines[0] == "B = 1, V = 2" and lines[1].startswith("logits = [[")
    assert lines[2].startswith("tokens = [[") and lines[2].endswith("-1, -1, -1]], length = 1, step = 0")
    assert lines[3].startswith("output of ") and "got [0.]; wanted [-inf]" in lines[3]
