"""Config: the presets have the paper's sizes, and every field rejects invalid values."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import nn, values
from tfm_jax.nn import heads
from tfm_jax.ops.backends import BACKENDS


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def paper_formula(V, D, F, L):
    attention = 4 * D * D  # W^Q, W^K, W^V, W^O of all heads together, without biases
    feed_forward = D * F + F + F * D + D
    norm = 2 * D
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    return V * D + L * (encoder + decoder)


@pytest.mark.parametrize(
    ("preset", "D", "F", "millions"), [(nn.paper_base, 512, 2048, 63.0), (nn.paper_big, 1024, 4096, 214.2)]
)
def test_presets_have_the_papers_parameter_counts(preset, D, F, millions):
    got = count(nn.functionalize(nn.EncoderDecoder, preset(37_000)))
    assert got == paper_formula(37_000, D, F, 6)
    assert round(got / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "got n_heads=4 with d_model=10; wanted a divisor"),
        ({"n_heads": 6, "d_model": 12, "n_kv_heads": 4}, "got n_kv_heads=4 with n_heads=6; wanted a divisor"),
        (
            {"d_model": 9, "n_heads": 3, "positions": nn.Rope()},
            "rotates 3 of the 3 elements of a head; wanted an even",
        ),
        (
            {"d_model": 12, "n_heads": 3, "positions": nn.Rope(fraction=0.2)},
            "rotates 0 of the 4 elements",
        ),
        ({"dropout_rate": 1.0}, r"Config: got dropout_rate=1.0; wanted a number in \[0, 1\)."),
        ({"norm_placement": "middle"}, "got norm_placement='middle'; wanted 'pre', 'post' or 'parallel'."),
        ({"n_layers": 0}, "got n_layers=0; wanted an integer from 1 to"),
        ({"d_model": 8.0}, "got d_model=8.0; wanted an integer from 1 to"),
        ({"vocab_size": None}, "got vocab_size=None; wanted an integer from 0 to"),
        ({"vocab_size": True}, "got vocab_size=True; wanted an integer"),
        ({"tie_embeddings": "no"}, "got tie_embeddings='no'; wanted True or False."),
        ({"dropout_rate": None}, "got dropout_rate=None; wanted a number in"),
        ({"embedding_dropout_rate": "0"}, "got embedding_dropout_rate='0'; wanted a number in .*, or None."),
        ({"attention_output_bias": 1}, "got attention_output_bias=1; wanted True or False, or None."),
        ({"vocab_size": -1}, "got vocab_size=-1; wanted"),
        ({"logits_scale": float("nan")}, "got logits_scale=nan; wanted a finite number."),
        ({"attention_scale": float("inf")}, "got attention_scale=inf; wanted a finite number, or None."),
        ({"token_types": -2}, "got token_types=-2; wanted"),
        ({"d_model": 9, "n_heads": 3}, "got d_model=9 with Sinusoidal.*; wanted an even d_model"),
        ({"dtype": "float31"}, "got dtype='float31'; wanted 'float32' or 'bfloat16'."),
        ({"remat": "all"}, "got remat='all'; wanted 'full', 'dots' or None."),
        ({"attention_implementation": "flash"}, "got attention_implementation='flash'; wanted one of auto, "),
        (
            {"attention_implementation": []},
            "got attention_implementation=.*; wanted an instance of Backend, or a",
        ),
        ({"patches": nn.Patches(4, 4), "token_types": 2}, "got token_types=2 with patches; wanted 0"),
        ({"param_dtype": "float64"}, "got param_dtype='float64'; wanted 'float32' or 'bfloat16'."),
        (
            {"positions": nn.Learned(9, padding_id=1), "patches": nn.Patches(4, 4)},
            "padding_id=1.* with patches; wanted padding_id=None",
        ),
    ],
)
def test_invalid_config_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        nn.Config(**{"vocab_size": 11, **fields})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Mlp("rellu"), "rellu"),
        (lambda: nn.Mlp(None), "Mlp: got activation=None; wanted a string, or an instance of Activation"),
        (lambda: nn.Pooler([]), "Pooler: got activation=.*; wanted a string, or an instance of Activation"),
        (lambda: nn.Rope(pairing="halff"), "Rope: got pairing='halff'; wanted 'interleaved' or 'half'."),
        (lambda: nn.Rope(0), "Rope: got theta=0; wanted a finite number above 0."),
        (lambda: nn.Sinusoidal(-1.0), "Sinusoidal: got theta=-1.0"),
        (lambda: nn.LayerNorm(-1.0), "LayerNorm: got eps=-1.0; wanted a finite number above 0."),
        (lambda: nn.LayerNorm(float("nan")), "LayerNorm: got eps=nan"),
        (lambda: nn.RMSNorm(0.0), "RMSNorm: got eps=0.0"),
        (lambda: nn.RMSNorm(float("inf")), "RMSNorm: got eps=inf"),
        (
            lambda: nn.Learned(padding_id=-1),
            "got padding_id=-1; wanted an integer from 0 to .* or None.",
        ),
        (lambda: nn.Patches(8, 8, size="2"), "got size='2'; wanted"),
        (lambda: nn.Patches(8, 8, size=(2, 2, 2)), "got size=.2, 2, 2.; wanted"),
        (lambda: nn.Patches(8, 8, size=(2, 0)), "got size=.2, 0.; wanted"),
        (lambda: nn.Glu("sillu"), "sillu"),
        (lambda: nn.RelativeBias(7), "got RelativeBias.*; wanted an even number of buckets"),
        (lambda: nn.RelativeBias(8, 4), "max_distance above half"),
        (lambda: nn.Learned(0), "Learned: got max_length=0; wanted an integer from 1 to"),
        (lambda: nn.LayerNorm("e"), "LayerNorm: got eps='e'; wanted a finite number above 0."),
        (lambda: nn.RMSNorm(None), "RMSNorm: got eps=None; wanted"),
        (lambda: nn.Sinusoidal("10"), "got theta='10'; wanted a finite number above 0."),
        (lambda: nn.Learned(True), "got max_length=True; wanted an integer"),
        (lambda: nn.RelativeBias(True, 8), "got buckets=True; wanted an integer"),
        (lambda: nn.Mlp(bias=1), "Mlp: got bias=1; wanted True or False."),
        (lambda: nn.Patches(8, 8, class_token="no"), "got class_token='no'; wanted True or False."),
        (lambda: nn.Rope("10"), "got theta='10'; wanted a finite number above 0."),
        (lambda: nn.Rope(fraction=0.0), r"got fraction=0.0; wanted a number in \(0, 1\]"),
        (lambda: nn.Rope(fraction=1.5), "got fraction=1.5; wanted"),
        (lambda: nn.Rope(fraction=float("nan")), "got fraction=nan; wanted"),
        (lambda: nn.Pooler(dropout_rate="0"), "Pooler: got dropout_rate='0'; wanted"),
        (
            lambda: nn.Patches(8, 8, size=0),
            "got size=0; wanted an integer from 1 to .* or a tuple of",
        ),
    ],
)
def test_invalid_variant_fields(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Undecorated(nn.RMSNorm):
    pass


@dataclasses.dataclass
class Unfrozen(nn.Norm):
    def build(self, size, *, axis, dtype, rngs):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Holder(nn.Positions):
    values: object = 1

    def rotate(self, x, positions):
        return x


@dataclasses.dataclass(frozen=True)
class OtherNames(nn.Positions):
    def embed(self, x, positions):
        return x


@dataclasses.dataclass(frozen=True)
class Incomplete(nn.Norm):
    pass


@dataclasses.dataclass(frozen=True)
class Longest(nn.Pooling):
    reads: str = "longest"

    def build(self, config, *, rngs):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TheirNorm:
    eps: float = 1e-5


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "norm",
            nn.LayerNorm,
            r"wanted an instance of Norm, such as .*LayerNorm.*\. Pass LayerNorm\(\.\.\.\), an",
        ),
        ("norm", Unfrozen, r"Decorate Unfrozen with @dataclass\(frozen=True\)\."),
        ("norm", Unfrozen(), r"Decorate Unfrozen with @dataclass\(frozen=True\)\."),
        ("norm", Undecorated(), r"Decorate Undecorated with @dataclass\(frozen=True\)\."),
        ("norm", TheirNorm(), "TheirNorm does not subclass Norm."),
        ("norm", None, "wanted an instance of Norm, such as .*RMSNorm"),
        ("norm", nn.Norm, "wanted an instance of Norm, .* Norm is a kind. Subclass it"),
        ("positions", nn.Rope, r"Pass Rope\(\.\.\.\), an instance."),
        ("positions", "rope", r"Pass Rope\(\.\.\.\), an instance."),
        ("positions", Holder, r"Pass Holder\(\.\.\.\), an instance."),
        (
            "positions",
            Holder([1]),
            "The fields of Holder must be hashable, such as numbers and tuples: unhashable",
        ),
        ("positions", Holder(np.ones(2)), "The fields of Holder must be hashable"),
        ("positions", nn.Positions(), "Positions is a kind. Subclass it, or use one of its variants."),
        (
            "positions",
            OtherNames(),
            "Define build_embedding or build_bias or rotate in OtherNames: it does",
        ),
        ("positions", OtherNames, "Define build_embedding or build_bias or rotate in OtherNames: it does"),
        ("norm", Incomplete, "Define build in Incomplete."),
        ("norm", TheirNorm, "TheirNorm does not subclass Norm."),
        ("pooler", Longest(), r"with reads='longest'; wanted 'mean', for the valid positions, or 'first'"),
        ("positions", [nn.Rope(), None], "wanted an instance of Positions, such as Sinusoidal, .*, or None"),
        ("positions", nn.Mlp(), "wanted an instance of Positions, such as Sinusoidal, .*, or None"),
        ("feed_forward", object(), "wanted an instance of FeedForward, such as Mlp.* Glu"),
        ("feed_forward", nn.Rope(), "wanted an instance of FeedForward, such as Mlp.* Glu"),
        ("pooler", "cls", "wanted an instance of Pooling, such as Pooler.*, or None."),
        ("patches", 3, "wanted an instance of PatchEmbedding, such as Patches.*, or None."),
        ("initializers", nn.Normal(), r"wanted an instance of Initializers\. Pass Initializers\(kernel=Norm"),
    ],
)
def test_what_is_no_variant_of_the_kind_is_an_error(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        nn.Config(**{field: value})
    assert str(error.value).startswith(f"Config: got {field}=")


def test_modules_reject_unknown_names_too():
    with pytest.raises(ValueError, match="activation: got 'gellu'"):
        nn.MaskedLanguageModel(nn.Config(vocab_size=9), "gellu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="pool: got pooling='max'"):
        heads.pool(jax.numpy.zeros((2, 3)), "max")
    with pytest.raises(ValueError, match=r"nn.Linear: got axes='D N'; wanted 3 letters"):
        nn.Linear((4,), (2, 3), axes="D N", bias=False, rngs=nnx.Rngs(0))


def test_a_backend_is_its_name_where_the_library_has_it():
    assert nn.Config(attention_implementation=BACKENDS["xla"]) == nn.Config(attention_implementation="xla")
    other = dataclasses.replace(BACKENDS["xla"], name="mine")
    config = nn.Config(vocab_size=7, d_model=4, n_heads=2, d_ff=4, n_layers=1, attention_implementation=other)
    assert config.attention_implementation is other and hash(config) == hash(dataclasses.replace(config))
    tokens = jax.numpy.arange(3)
    model, named = (
        nn.functionalize(nn.Decoder, c)
        for c in (config, dataclasses.replace(config, attention_implementation="xla"))
    )
    params = model.init(jax.random.key(0))
    np.testing.assert_array_equal(model.apply(params, tokens), named.apply(params, tokens))
    with pytest.raises(
        ValueError, match=r"^Config.attention_implementation: got Backend.*wanted a value that JSON"
    ):
        values.to_dict(config)
    text = json.dumps(values.to_dict(nn.Config(attention_implementation=BACKENDS["xla"])))
    assert values.from_dict(nn.Config, json.loads(text)).attention_implementation == "xla"


VARIANTS = [nn.LayerNorm, nn.RMSNorm, nn.Sinusoidal, nn.Learned, nn.Rope, nn.Alibi, nn.RelativeBias]
VARIANTS += [nn.Mlp, nn.Glu, nn.Pooler, functools.partial(nn.Patches, 4, 6), nn.Config]
VARIANTS += [nn.Normal, nn.TruncatedNormal, nn.Initializers]
FIELDS = [(make(), field.name) for make in VARIANTS for field in dataclasses.fields(make())]
# Invalid for every field.
NEVER = st.sampled_from(
    [math.nan, math.inf, nn.Rope, object(), [1], (), {}, "halff", b"relu", 1j, np.ones(2)]
)
BELOW_0 = st.integers(-9, -1) | st.floats(-9, -1e-3)
SIGNED = ("attention_scale", "logits_scale")
OTHER_KINDS = {
    bool: st.text() | st.integers() | st.none(),
    int: st.floats(0.1, 0.9) | st.text() | st.booleans(),
    float: st.text() | st.booleans(),
    str: st.integers() | st.booleans() | st.none(),
}


@pytest.mark.parametrize(
    ("value", "name"), FIELDS, ids=lambda x: x if isinstance(x, str) else type(x).__name__
)
@given(st.data())
def test_every_field_rejects_values_of_other_types_and_out_of_range(value, name, data):
    other = OTHER_KINDS.get(type(getattr(value, name)), st.nothing())
    wrong = data.draw(NEVER | other | (st.nothing() if name in SIGNED else BELOW_0))
    with pytest.raises(ValueError, match=f"{type(value).__name__}: got {name}=|^activation: got"):
        dataclasses.replace(value, **{name: wrong})
