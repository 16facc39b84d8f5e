"""``nn.EncoderBlock`` satisfies the laws of a block."""

import jax
import numpy as np
import pytest
from hypothesis import settings

from tfm_jax import laws, nn

EXAMPLES = settings().max_examples


def block(**fields):
    config = nn.Config(vocab_size=9, d_model=16, n_heads=4, d_ff=24, positions=None, **fields)
    model = nn.functionalize(nn.EncoderBlock, config)
    params = jax.jit(model.init)(jax.random.key(4))
    return jax.jit(lambda x: model.apply(params, x)[0])


@pytest.mark.parametrize("norm", ["pre", "post", "parallel"])
@pytest.mark.parametrize("fields", [{}, {"norm": nn.RMSNorm(), "n_kv_heads": 2, "feed_forward": nn.Glu()}])
def test_blocks(norm, fields):
    placement = "post" if norm == "post" else "pre"
    report = laws.check(block(norm_placement=norm, **fields), laws.block, examples=EXAMPLES, norm=placement)
    assert report.ok, str(report)


def test_wrong_norm_placement_is_found():
    suite = laws.block.only("residual_and_norm")
    assert laws.check(block(norm_placement="post"), suite, examples=3).violated
    assert laws.check(block(norm_placement="pre"), suite, examples=3, norm="post").violated
    report = laws.check(block(), suite, examples=3, norm=None)
    assert not report.violated and report.unsupported == ("residual_and_norm",)
    with pytest.raises(ValueError, match=r"laws\.block: got norm='both'; wanted 'pre', 'post' or None"):
        laws.check(block(), suite, norm="both")


def test_counterexample_shows_the_vectors():
    (found,) = laws.check(lambda x: x[:, :, :3], laws.block.only("large_inputs"), examples=3).findings
    lines = found.counterexample.splitlines()
    assert lines[0] == "B = 1, T = 1, D = 16" and lines[1].startswith("x = [[[")
    assert lines[2] == "shape: got [1, 1, 3]; wanted [B, T, D] = [1, 1, 16]"
    assert np.isfinite(block()(np.ones((1, 2, 16), np.float32))).all()
