"""Parity with ``torch.nn.Transformer``: output, loss and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops, pretrained
from tfm_jax.ops import masks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

D, N, F, L, B, S, T, V = 12, 3, 10, 2, 2, 7, 5, 11


def numpy(tensor):
    return tensor.detach().numpy()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_torch_nn_transformer(placement):
    torch.manual_seed(0)
    theirs = torch.nn.Transformer(D, N, L, L, F, dropout=0.0, batch_first=True, norm_first=placement == "pre")
    for parameter in theirs.parameters():  # no norm scale is 1, no bias 0
        torch.nn.init.normal_(parameter, 0.3, 0.3)
    table = torch.randn(V, D, requires_grad=True)
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(B, S, D)), rng.normal(size=(B, T, D))
    labels = rng.integers(0, V, (B, T))
    labels[1, 3:] = -100
    valid = np.arange(S) < np.array([[7], [4]])

    x = torch.tensor(target, dtype=torch.float32, requires_grad=True)
    hidden = theirs(
        torch.tensor(source, dtype=torch.float32),
        x,
        tgt_mask=torch.triu(torch.ones(T, T, dtype=torch.bool), 1),
        src_key_padding_mask=torch.tensor(~valid),
        memory_key_padding_mask=torch.tensor(~valid),
    )
    loss = torch.nn.functional.cross_entropy(
        (hidden @ table.T).reshape(-1, V),
        torch.tensor(labels).reshape(-1),
        label_smoothing=0.1,
        ignore_index=-100,
        reduction="sum",
    )
    loss.backward()

    _, params, config = pretrained.from_torch_transformer(
        theirs.state_dict(), N, embedding=numpy(table), norm_placement=placement, positions=None
    )
    encoder = nn.functionalize(nn.EncoderStack, config)
    decoder = nn.functionalize(nn.DecoderStack, config, cross_attention=True)
    padding = masks.padding(jnp.asarray(valid))

    def ours(x):
        memory, _ = encoder.apply(params["encoder"], jnp.float32(source), padding)
        hidden, _ = decoder.apply(params["decoder"], x, masks.causal(), memory, padding)
        logits = hidden @ jnp.asarray(numpy(table)).T
        total, weight = ops.cross_entropy(logits, jnp.asarray(labels), label_smoothing=0.1, ignore_index=-100)
        return total, (hidden, weight)

    (total, (our_hidden, weight)), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.float32(target))
    assert float(weight) == (labels >= 0).sum()
    np.testing.assert_allclose(our_hidden, numpy(hidden), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(total, numpy(loss), rtol=1e-5)
    np.testing.assert_allclose(gradient, numpy(x.grad), rtol=1e-4, atol=1e-5)
