"""Summary of a model: counts, bytes and the table."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tfm_jax import nn

CONFIG = nn.Config(vocab_size=7, d_model=6, n_heads=2, d_ff=5, n_layers=3, logits_bias=True)


class Model(nnx.Module):
    """A model from outside the library; ``Inner`` declares no axes."""

    def __init__(self, *, rngs):
        self.table = nnx.Param(jnp.zeros((1000, 3), jnp.bfloat16))
        self.layers = nnx.List([Inner(rngs=rngs), Inner(rngs=rngs)])

    def axes(self):
        return {"table": "V D"}


class Inner(nnx.Module):
    def __init__(self, *, rngs):
        self.one, self.two = nnx.Param(jnp.zeros((3, 4))), nnx.Param(jnp.zeros(()))


@pytest.mark.parametrize("module", [nn.Decoder, nn.EncoderDecoder, Model])
def test_counts_and_bytes_are_those_of_the_parameters(module):
    model = nn.functionalize(module, *(() if module is Model else (CONFIG,)))
    leaves = jax.tree.leaves(model.init(jax.random.key(0)))
    summary = nn.summary(model)
    assert summary.n_params == sum(x.size for x in leaves)
    assert summary.n_bytes == sum(x.nbytes for x in leaves)
    assert {p.path for p in summary.parameters} == {
        tuple(k.key for k in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(model.init(jax.random.key(0)))
    }


def test_the_table_of_a_model_from_outside():
    assert str(nn.summary(nn.functionalize(Model))) == (
        "module or parameter  axes        dtype     parameters   memory\n"
        "--------------------------------------------------------------\n"
        "Model                                           3,026  6.0 KiB\n"
        "  layers: List                                     26    104 B\n"
        "    0: Inner                                       13     52 B\n"
        "      one            3 4         float32           12     48 B\n"
        "      two                        float32            1      4 B\n"
        "    1: Inner                                       13     52 B\n"
        "      one            3 4         float32           12     48 B\n"
        "      two                        float32            1      4 B\n"
        "  table              V=1000 D=3  bfloat16       3,000  5.9 KiB\n"
        "--------------------------------------------------------------\n"
        "total                                           3,026  6.0 KiB"
    )


def test_nothing_is_allocated():
    huge = nn.Config(vocab_size=10**6, d_model=2**14, n_heads=128, d_ff=2**16, n_layers=100)
    summary = nn.summary(nn.functionalize(nn.Decoder, huge))  # 1.3 TiB
    assert summary.n_params > 3 * 10**11
    assert str(summary).splitlines()[-1].endswith(" TiB")
