"""Configs survive a round trip through JSON and text."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import nn, values

rates = st.floats(1.0, 1e9)
pairings = st.sampled_from(["interleaved", "half"])
positions = st.one_of(
    st.none(),
    st.builds(nn.Sinusoidal, rates, pairings),
    st.builds(nn.Rope, rates, pairings),
    st.builds(nn.Learned, st.integers(1, 9), st.none() | st.integers(0, 9)),
    st.just(nn.Alibi()),
    st.builds(nn.RelativeBias, st.sampled_from([4, 6, 8]), st.integers(9, 99)),
)
models = st.builds(
    nn.Config,
    vocab_size=st.integers(0, 99),
    window=st.none() | st.integers(1, 9),
    norm=st.builds(nn.LayerNorm, rates) | st.builds(nn.RMSNorm, rates),
    positions=positions,
    feed_forward=st.builds(nn.Mlp, st.sampled_from(["relu", "gelu"]), st.booleans()) | st.just(nn.Glu()),
    patches=st.none() | st.builds(nn.Patches, st.just(4), st.just(6), st.just(3), st.sampled_from([1, 2])),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """One field of each type that configs use."""

    path: Path | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    rate: float = 0.5


MODEL = nn.Config()


@dataclasses.dataclass(frozen=True)
class Outer:
    """Nested dataclasses."""

    settings: Settings = Settings()
    model: nn.Config = MODEL


@given(models)
def test_model_config_round_trips_through_json(model):
    assert values.from_dict(nn.Config, json.loads(json.dumps(values.to_dict(model)))) == model


@given(
    st.builds(
        Settings,
        st.none() | st.sampled_from([Path("a/b"), Path("c")]),
        st.lists(st.integers()).map(tuple),
        st.tuples(st.integers(), st.floats(-1, 1)),
        st.floats(-9, 9),
    )
)
def test_paths_and_tuples_round_trip_through_json(settings):
    assert values.from_dict(Settings, json.loads(json.dumps(values.to_dict(settings)))) == settings


def test_integers_become_floats_where_the_annotation_is_float():
    found = values.from_dict(Settings, {"pair": [1, 2], "rate": 3})
    assert [type(x) for x in (*found.pair, found.rate)] == [int, float, float]


def test_variants_with_equal_fields_have_different_text():
    texts = [values.to_text(kind(theta=5.0, pairing="half")) for kind in (nn.Rope, nn.Sinusoidal)]
    assert texts == ['Rope(theta=5.0, pairing="half", fraction=1.0)', 'Sinusoidal(theta=5.0, pairing="half")']
    assert values.to_text(None) == "None"


def test_variants_of_an_annotation():
    assert values.variants(nn.FeedForward).items() >= {"Mlp": nn.Mlp, "Glu": nn.Glu}.items()
    assert values.variants(nn.Pooling | None).items() >= {"Pooler": nn.Pooler, "None": type(None)}.items()
    assert values.variants(int | None) is values.variants(nn.Mlp) is values.variants(nn.Mlp | None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Swish()", "wanted one of Mlp, Glu"),
        ("Mlp(width=1)", r"Mlp: got unknown fields \['width'\]"),
        ("Mlp(activation=print(1))", "No class is registered by the name 'print'"),
        ("Mlp(bias=print(1))", "malformed"),
        ("Mlp('relu')", "fields by name"),
        ("Mlp(activation='swoosh')", "swoosh"),
        ("", "wanted one of"),
    ],
)
def test_bad_variant_text_is_one_error(text, message):
    with pytest.raises(ValueError, match=message):
        values.from_text(nn.FeedForward, text)


def test_unknown_fields_and_wrong_json_types_are_errors():
    with pytest.raises(
        ValueError, match=r"Settings: got unknown fields \['depth'\]; wanted some of \['pair', 'path'"
    ):
        values.from_dict(Settings, {"depth": 3})
    with pytest.raises(ValueError, match=r"Settings: got \[3\]; wanted a JSON object"):
        values.from_dict(Settings, [3])


@pytest.mark.parametrize(
    ("json", "message"),
    [
        ({"settings": {"rate": "0.5"}}, "Outer.settings: Settings: got rate='0.5'; wanted a number."),
        ({"settings": {"rate": True}}, "Outer.settings: Settings: got rate=True; wanted a number."),
        ({"settings": {"rate": 10**400}}, "Outer.settings: Settings.rate: int too large"),
        ({"settings": {"path": 3}}, "Outer.settings: Settings.path: "),
        ({"settings": {"pair": [1]}}, r"Outer.settings: Settings.pair: got \[1\]; wanted a list as long as"),
        ({"settings": {"pair": 1}}, r"Outer.settings: Settings.pair: got 1; wanted a list as long as"),
        (
            {"settings": {"sizes": [1, 2.5]}},
            r"Outer.settings: Settings: got sizes=\(1, 2.5\); wanted a tuple",
        ),
        ({"settings": None}, "Outer.settings: Settings: got None; wanted a JSON object"),
        (
            {"model": {"norm": "Norm()"}},
            r"Outer.model: Config.norm: got 'Norm\(\)'; wanted one of LayerNorm, RMS",
        ),
        (
            {"model": {"positions": {"theta": 1}}},
            "Outer.model: Config.positions: got .*wanted one of Sinusoidal",
        ),
        ({"model": {"positions": "Rope(theta=-1)"}}, "Outer.model: Config.positions: .* got theta=-1"),
        ({"model": {"positions": "(" * 9000}}, "Outer.model: Config.positions: .*wanted one of Sinusoidal"),
        (
            {"model": {"feed_forward": None}},
            "Outer.model: Config.feed_forward: got 'None'; wanted one of Mlp",
        ),
        ({"model": {"norm_placement": "middle"}}, "Outer.model: Config: got norm_placement='middle'"),
        ({"model": {"d_model": None}}, "Outer.model: Config: got d_model=None; wanted an integer"),
    ],
)
def test_errors_name_the_path_of_fields(json, message):
    with pytest.raises(ValueError, match=message):
        values.from_dict(Outer, json)


def test_old_config_without_param_dtype_has_float32_parameters():
    old = values.to_dict(nn.Config(positions=nn.Learned(9)))
    del old["param_dtype"], old["count_padding"]
    found = values.from_dict(nn.Config, old | {"positions": "Learned(max_length=9)"})
    assert found == nn.Config(positions=nn.Learned(9), param_dtype="float32", count_padding=True)


def test_numpy_scalars_are_written_as_numbers():
    assert values.to_text(nn.Learned(np.int64(9))) == "Learned(max_length=9)"


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@given(nested)
def test_plain_is_json_and_idempotent(value):
    once = values.plain(value)
    assert json.loads(json.dumps(once, allow_nan=False)) == once == values.plain(once)


def test_plain_converts_scalars_and_paths():
    found = values.plain({"a": np.int32(3), "b": jnp.float32(0.5), "c": [Path("x")], "d": np.float64("nan")})
    assert found == {"a": 3, "b": 0.5, "c": ["x"], "d": None}


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("None", "'None' is none of these"),
        ("3", "'3' is none of these"),
        ("a.B()", "'a.B' is none of these"),
        ("Mine(a=1)", r"nn.register_variant\(Mine\)"),
    ],
)
def test_only_a_name_can_be_registered(text, fix):
    with pytest.raises(ValueError, match=fix):
        values.from_text(nn.Norm, text)


def test_a_string_in_a_variant_is_quoted():
    with pytest.raises(ValueError, match=r"Quote a string: 'gelu'\. No class is registered by the name"):
        values.from_text(nn.FeedForward, "Mlp(activation=gelu)")
