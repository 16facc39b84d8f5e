"""Conversion of a ``torch.nn.Transformer``, or its encoder: the same logits from its state dict."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import save_file

from tfm_jax import nn, ops, pretrained
from tfm_jax.ops import masks

D, N, F, V, B, S, T = 12, 3, 10, 11, 2, 7, 5
ENCODER, DECODER = 3, 2
rng = np.random.default_rng(0)
TABLE, SOURCE, OUTPUT = (rng.normal(size=(V, D)).astype(np.float32) for _ in range(3))
BIAS = rng.normal(size=V).astype(np.float32)


def state(*, bias=True, norms=True):
    """Random tensors by the names of torch."""
    shapes = {}

    def linear(name, outputs, inputs):
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    for stack, layers, attentions in (("encoder", ENCODER, 1), ("decoder", DECODER, 2)):
        for i in range(layers):
            layer = f"{stack}.layers.{i}"
            for name in ("self_attn", "multihead_attn")[:attentions]:
                shapes |= {
                    f"{layer}.{name}.in_proj_{x}": s for x, s in (("weight", (3 * D, D)), ("bias", (3 * D,)))
                }
                linear(f"{layer}.{name}.out_proj", D, D)
            linear(f"{layer}.linear1", F, D)
            linear(f"{layer}.linear2", D, F)
            shapes |= {
                f"{layer}.norm{j}.{x}": (D,) for j in range(1, attentions + 2) for x in ("weight", "bias")
            }
        if norms:
            shapes |= {f"{stack}.norm.{x}": (D,) for x in ("weight", "bias")}
    draw = np.random.default_rng(1)
    tensors = {name: (0.3 * draw.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return {name: x for name, x in tensors.items() if bias or not name.endswith("bias")}


def build(tensors, **options):
    return pretrained.from_torch_transformer(tensors, N, embedding=TABLE, **options)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(
    "torch_options, fields, norms",
    [
        ({}, {"positions": None, "scale_embeddings": False}, True),
        (
            {"norm_first": True, "activation": "gelu", "batch_first": True, "layer_norm_eps": 1e-3},
            {
                "norm_placement": "pre",
                "feed_forward": nn.Mlp("gelu"),
                "norm": nn.LayerNorm(1e-3),
                "output": OUTPUT,
                "output_bias": BIAS,
            },
            True,
        ),
        ({"bias": False, "norm_first": True}, {"norm_placement": "pre", "source_embedding": SOURCE}, True),
        ({"bias": False, "batch_first": True}, {"output": OUTPUT}, False),
    ],
)
def test_logits_equal_those_of_torch(torch_options, fields, norms):
    torch = pytest.importorskip("torch")
    module = torch.nn.Transformer(D, N, ENCODER, DECODER, F, dropout=0.0, **torch_options).eval()
    if not norms:
        module.encoder.norm = module.decoder.norm = None
    tensors = state(bias=torch_options.get("bias", True), norms=norms)
    module.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    model, params, config = build(module.state_dict(), **fields)
    draw = np.random.default_rng(2)
    source, target = draw.integers(0, V, (B, S)), draw.integers(0, V, (B, T))
    valid = np.arange(S) < np.array([[7], [4]])

    def embedded(table, tokens):
        x = table[tokens] * (D**0.5 if config.scale_embeddings else 1.0)
        added = (
            0.0 if config.positions is None else np.asarray(ops.sinusoidal(jnp.arange(tokens.shape[1]), D))
        )
        x = torch.tensor(x + added, dtype=torch.float32)
        return x if torch_options.get("batch_first") else x.transpose(0, 1)

    with torch.no_grad():
        hidden = module(
            embedded(fields.get("source_embedding", TABLE), source),
            embedded(TABLE, target),
            tgt_mask=torch.triu(torch.ones(T, T, dtype=torch.bool), 1),
            src_key_padding_mask=torch.tensor(~valid),
            memory_key_padding_mask=torch.tensor(~valid),
        ).numpy()
    hidden = hidden if torch_options.get("batch_first") else hidden.swapaxes(0, 1)
    wanted = hidden @ fields.get("output", TABLE).T + fields.get("output_bias", 0.0)
    mask = masks.padding(jnp.asarray(valid))
    got = jax.jit(model.apply)(params, source, target, source_mask=mask)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_file_equals_its_state_dict(tmp_path):
    tensors = state(bias=False)
    save_file(tensors, tmp_path / "it.safetensors")
    _, wanted, config = build(tensors)
    _, got, again = build(tmp_path / "it.safetensors")
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert config == again and (config.n_layers, config.n_decoder_layers, config.d_ff) == (
        ENCODER,
        DECODER,
        F,
    )
    assert not config.attention_bias and not config.feed_forward.bias and config.norm_placement == "post"
    np.testing.assert_array_equal(got["encoder"]["norm"]["bias"], 0.0)


def test_mismatched_tensors_are_errors_by_name():
    tensors = state()
    tensors["decoder.layers.1.linear2.weight"] = np.ones((D, 3), np.float32)
    tensors["mine"] = tensors.pop("encoder.layers.2.norm1.bias")
    with pytest.raises(ValueError) as error:
        build(tensors)
    assert str(error.value).splitlines()[1:] == [
        "  decoder.layers.1.linear2.weight: wanted (12, 10), got (12, 3)",
        "  encoder.layers.2.norm1.bias: missing, wanted (12,)",
        "  mine: unknown, got (12,)",
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"d_ff": 10, "n_layers": 3}, "got d_ff, n_layers; wanted no field that the tensors determine"),
        (
            {"positions": nn.Learned(9)},
            "got positions=Learned.*, with the parameters decoder/position_embedding/table, .*; wanted",
        ),
        ({"norm": nn.RMSNorm()}, r"got norm=RMSNorm\(.*; wanted LayerNorm"),
        ({"feed_forward": nn.Glu()}, r"got feed_forward=Glu\(.*; wanted Mlp"),
        (
            {"qk_norm": True},
            "got qk_norm=True, with the parameters .*query_norm/.*; wanted fields that add none",
        ),
        ({"source_embedding": TABLE[:4]}, r"source_embedding: wanted \(11, 12\), got \(4, 12\)"),
        ({"output": OUTPUT.T}, r"output.weight: wanted \(11, 12\), got \(12, 11\)"),
    ],
)
def test_arguments_that_do_not_fit_the_tensors_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build(state(), **options)


def test_tensors_of_another_module_are_errors():
    with pytest.raises(
        ValueError,
        match=r"got the tensors .*; wanted the state dict of a torch.nn.Transformer, with",
    ):
        build({"weight": np.ones(3)})
    with pytest.raises(ValueError, match=r"got \['embedding'\] in the state dict; wanted the module"):
        build(state() | {"embedding": TABLE})


@given(
    kind=st.sampled_from(
        ["array", "bfloat16 array", "float64 array", "tensor", "bfloat16 tensor", "parameter"]
    ),
    prefix=st.lists(st.sampled_from(["module", "_orig_mod", "model", "transformer"]), max_size=2).map(
        lambda parts: "".join(f"{part}." for part in parts)
    ),
)
@pytest.mark.parity
def test_any_kind_of_array_and_a_prefix_of_the_names(converted, kind, prefix):
    """The parameters are equal, up to rounding in bfloat16."""
    torch = pytest.importorskip("torch")
    makes = {
        "array": lambda x: x,
        "bfloat16 array": lambda x: x.astype(ml_dtypes.bfloat16),
        "float64 array": lambda x: x.astype(np.float64),
        "tensor": torch.tensor,
        "bfloat16 tensor": lambda x: torch.tensor(x, dtype=torch.bfloat16),
        "parameter": lambda x: torch.nn.Parameter(torch.tensor(x)),
    }
    make, (tensors, wanted, config) = makes[kind], converted
    _, got, found = pretrained.from_torch_transformer(
        {prefix + name: make(x) for name, x in tensors.items()}, N, embedding=make(TABLE), output=make(OUTPUT)
    )
    assert found == config

    def rounded(x):
        return x.astype(ml_dtypes.bfloat16).astype(np.float32) if "bfloat16" in kind else x

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, rounded(np.asarray(y))), got, wanted)


@pytest.fixture(scope="module")
def converted():
    tensors = state()
    return tensors, *build(tensors, output=OUTPUT)[1:]


def of_encoder(tensors):
    return {x.removeprefix("encoder."): y for x, y in tensors.items() if x.startswith("encoder.")}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.net."])
def test_vectors_of_an_encoder_equal_those_of_torch(bias, norms, prefix):
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(
        D, N, F, dropout=0.0, activation="gelu", batch_first=True, norm_first=bias, bias=bias
    )
    norm = torch.nn.LayerNorm(D, bias=bias) if norms else None
    module = torch.nn.TransformerEncoder(layer, ENCODER, norm, enable_nested_tensor=False).eval()
    tensors = of_encoder(state(bias=bias, norms=norms))
    module.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    model, params, config = pretrained.from_torch_transformer(
        {prefix + name: x for name, x in module.state_dict().items()},
        N,
        embedding=TABLE,
        norm_placement="pre" if bias else "post",
        feed_forward=nn.Mlp("gelu"),
        positions=None,
        scale_embeddings=False,
    )
    assert (config.n_layers, config.d_ff, config.final_norm) == (ENCODER, F, norms)
    tokens = np.random.default_rng(2).integers(0, V, (B, S))
    valid = np.arange(S) < np.array([[7], [4]])
    with torch.no_grad():
        wanted = module(torch.tensor(TABLE[tokens]), src_key_padding_mask=torch.tensor(~valid)).numpy()
    got = jax.jit(model.apply)(params, tokens, masks.padding(jnp.asarray(valid)))
    np.testing.assert_allclose(np.asarray(got)[valid], wanted[valid], atol=1e-5)


def test_invalid_arguments_with_an_encoder_are_errors():
    alone = of_encoder(state())
    with pytest.raises(ValueError, match=r"got output\.weight with an encoder; wanted its embedding alone"):
        build(alone, output=OUTPUT)
    decoder = {x.removeprefix("decoder."): y for x, y in state().items() if x.startswith("decoder.")}
    for names in (decoder, {f"decoder.{x}": y for x, y in decoder.items()}):
        with pytest.raises(ValueError, match=r"of a torch\.nn\.TransformerDecoder alone; wanted that of the"):
            build(names)
    with pytest.raises(ValueError, match=r"got d_ff; wanted no field that the tensors determine"):
        build(alone, d_ff=3)


@pytest.mark.parametrize("name", ["it.pt", "it.pth", "it.bin", "it.ckpt"])
def test_a_pickle_is_an_error(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"a PyTorch pickle; wanted .* Pass torch\.load\(path, weights_only=True"
    ):
        build(tmp_path / name)
