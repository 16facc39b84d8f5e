"""The processors of transformers, of the form (input_ids, scores), asked by the laws; with the versions that
are installed, it is known what they break."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from tfm_jax import laws

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

EXAMPLES = settings().max_examples
UNTRACEABLE = "compiled_is_eager"


def of_torch(call, logits, *tokens):
    """What a function of tensors makes of JAX arrays, logits first, in the dtype of the logits."""
    wide = torch.from_numpy(np.array(logits, np.float32))
    half = logits.dtype == jnp.bfloat16
    out = call(wide.bfloat16() if half else wide, *(torch.from_numpy(np.array(x)).long() for x in tokens))
    return out.float().numpy().astype(jnp.bfloat16 if out.dtype == torch.bfloat16 else np.float32)


def wrapped(processor):
    call = lambda scores, ids: processor(ids, scores)
    return lambda logits, tokens, length, step: of_torch(call, logits, tokens[:, : int(length)])


# A hole is no token of theirs: an index that torch refuses.
@pytest.mark.parametrize(
    "kind, number, broken, refused",
    [
        ("TemperatureLogitsWarper", 0.7, (), ()),
        ("TopKLogitsWarper", 2, (), ()),
        ("TopPLogitsWarper", 0.6, (), ()),
        ("MinPLogitsWarper", 0.3, (), ()),
        ("RepetitionPenaltyLogitsProcessor", 1.4, (), ("padding",)),
        ("NoRepeatNGramLogitsProcessor", 2, ("something_stays_open", "a_nan_is_not_hidden"), ()),
    ],
)
def test_processors(kind, number, broken, refused):
    processor = wrapped(getattr(transformers, kind)(number))
    report = laws.check(processor, laws.logits_processor, examples=max(EXAMPLES, 60))
    assert report.broken == broken and report.unasked == (*refused, UNTRACEABLE), report


@pytest.mark.parametrize(
    "name, kind, broken",
    [
        ("temperature", "TemperatureLogitsWarper", ()),
        ("top_k", "TopKLogitsWarper", ()),
        # Equal tokens are cut by their rank, and what is rounded to a probability of 0 is closed by p = 1.
        ("top_p", "TopPLogitsWarper", ("at_1_nothing_changes", "ties")),
        ("min_p", "MinPLogitsWarper", ()),
    ],
)
def test_functions_of_a_number(name, kind, broken):
    make = getattr(transformers, kind)
    function = lambda logits, number: of_torch(lambda scores: make(number)(None, scores), logits)
    report = laws.check(function, laws.SUITES[name], examples=EXAMPLES)
    assert report.broken == broken and not report.unasked, report
