"""Attention of torch, as docs/suites.md adapts it, under the laws."""

import re
from pathlib import Path

import pytest
from hypothesis import settings

from tfm_jax import laws

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

EXAMPLES = settings().max_examples
PAGE = (Path(__file__).parents[2] / "docs" / "suites.md").read_text()
LEAKS = ("masked_values_do_not_leak", "masked_values_do_not_reach_gradients")


@pytest.fixture(scope="module")
def page():
    """The names of the code blocks of torch, without their checks of 100 cases per law."""
    section = PAGE[PAGE.index("## Functions of torch") : PAGE.index("## The suites")]
    names = {"laws": laws}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(re.sub(r"^print.*\n", "", block, flags=re.MULTILINE), names)
    return names


def multihead_attention():
    torch.manual_seed(0)
    mha = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    torch.nn.init.normal_(mha.in_proj_bias)
    return mha


def test_multihead_attention_with_its_weights(page):
    attend = page["attention_of"](multihead_attention())
    suite = laws.attention.only("definition", "causality", "fully_masked_rows", "gradients")
    report = laws.check(attend, suite, examples=3 * EXAMPLES, kv_heads="equal", heads=4, head_dim=8)
    assert report.violated == ("fully_masked_rows", "gradients"), report
    assert not any(found.unsupported for found in report.findings)
    assert {found.severity for found in report.by_severity()} == {"contract"}


def test_a_module_without_its_recipe_supports_no_call():
    """Its check of the arguments is an assertion."""
    report = laws.check(laws.torch(multihead_attention()), laws.attention)
    assert len(report.unsupported) == len(report.findings) and "received 4-D query" in str(report)
    assert "the function refuses every call of the suite's signature" in str(report)


@pytest.mark.slow
def test_whole_reports(page):
    report = laws.check(page["attend"], laws.attention, kv_heads="equal")
    assert report.violated == LEAKS and not any(found.unsupported for found in report.findings), report
    assert {found.severity for found in report.by_severity()} == {"contract"}
    attend = page["attention_of"](multihead_attention())
    report = laws.check(attend, laws.attention, kv_heads="equal", heads=4, head_dim=8)
    text = str(report)
    assert text[text.index("Violated:") :] in PAGE
    assert not any(found.unsupported for found in report.findings)


def test_another_mask_is_a_wrong_result(page):
    """Without the inversion of the mask, laws of severity "wrong result" are violated."""
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    attend = laws.heads_first(
        laws.torch(lambda q, k, v, mask: sdpa(q, k, v, None if mask is None else ~mask))
    )
    suite = laws.attention.only("no_mask", "causality", "fully_masked_rows")
    report = laws.check(attend, suite, examples=EXAMPLES, kv_heads="equal")
    severities = {found.law.name: found.severity for found in report.by_severity()}
    assert severities == {"causality": "wrong result", "fully_masked_rows": "contract"}
