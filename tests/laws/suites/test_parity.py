"""The laws that logits processors of ``transformers`` violate, in the installed version."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from tfm_jax import laws

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

EXAMPLES = settings().max_examples
UNTRACEABLE = "compiled_matches_eager"


def call_torch(call, logits, *tokens):
    """The output of a function of tensors for JAX arrays, in the dtype of the logits."""
    wide = torch.from_numpy(np.array(logits, np.float32))
    half = logits.dtype == jnp.bfloat16
    out = call(wide.bfloat16() if half else wide, *(torch.from_numpy(np.array(x)).long() for x in tokens))
    return out.float().numpy().astype(jnp.bfloat16 if out.dtype == torch.bfloat16 else np.float32)


def wrapped(processor):
    def call(scores, ids):
        return processor(ids, scores)

    return lambda logits, tokens, length, step: call_torch(call, logits, tokens[:, : int(length)])


# They take no padding id: -1 is an invalid index in torch.
@pytest.mark.parametrize(
    "kind, number, violated, unsupported",
    [
        ("TemperatureLogitsWarper", 0.7, (), ()),
        ("TopKLogitsWarper", 2, (), ()),
        ("TopPLogitsWarper", 0.6, (), ()),
        ("MinPLogitsWarper", 0.3, (), ()),
        ("RepetitionPenaltyLogitsProcessor", 1.4, (), ("padding_is_ignored",)),
        ("NoRepeatNGramLogitsProcessor", 2, ("at_least_one_token", "nan_is_not_hidden"), ()),
    ],
)
def test_processors(kind, number, violated, unsupported):
    processor = wrapped(getattr(transformers, kind)(number))
    report = laws.check(processor, laws.logits_processor, examples=max(EXAMPLES, 60))
    assert report.violated == violated and report.unsupported == (*unsupported, UNTRACEABLE), report


@pytest.mark.parametrize(
    "name, kind, violated",
    [
        ("temperature", "TemperatureLogitsWarper", ()),
        ("top_k", "TopKLogitsWarper", ()),
        # It cuts ties by rank, and p = 1 masks tokens whose probability is rounded to 0.
        ("top_p", "TopPLogitsWarper", ("p_1_is_identity", "ties_are_kept_together")),
        ("min_p", "MinPLogitsWarper", ()),
    ],
)
def test_functions_with_a_number(name, kind, violated):
    make = getattr(transformers, kind)

    def function(logits, number):
        return call_torch(lambda scores: make(number)(None, scores), logits)

    report = laws.check(function, laws.SUITES[name], examples=EXAMPLES)
    assert report.violated == violated and not report.unsupported, report
