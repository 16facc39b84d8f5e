"""Values of several kinds on the command line; test_values.py has their JSON, test_common.py the rest."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import runner
from tfm_jax import nn

MODEL = nn.Config(positions=nn.Learned(16))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runner.RunConfig):
    """A run of some model."""

    model: nn.Config = MODEL


def parse(*argv):
    return runner.parse(Config, argv)


rates = st.floats(1.0, 1e9)
positions = st.one_of(
    st.none(),
    st.builds(nn.Sinusoidal, rates, st.sampled_from(["interleaved", "half"])),
    st.builds(nn.Rope, rates, st.sampled_from(["interleaved", "half"])),
    st.builds(nn.Learned, st.integers(1, 9)),
    st.just(nn.Alibi()),
    st.builds(nn.RelativeBias, st.sampled_from([4, 6, 8]), st.integers(9, 99)),
)
models = st.builds(
    nn.Config,
    norm=st.builds(nn.LayerNorm, rates) | st.builds(nn.RMSNorm, rates),
    positions=positions,
    feed_forward=st.builds(nn.Mlp, st.sampled_from(["relu", "gelu"]), st.booleans()) | st.just(nn.Glu()),
    patches=st.none() | st.builds(nn.Patches, st.just(4), st.just(6), st.just(3), st.sampled_from([1, 2])),
)


@given(models)
def test_values_of_several_kinds_come_back_from_json_and_from_the_command_line(model):
    saved = json.loads(json.dumps(runner.to_dict(Config(model=model))))
    assert runner.from_dict(Config, saved) == Config(model=model)
    names = ("norm", "positions", "feed_forward", "patches")
    words = [
        word for name in names for word in (f"--model.{name.replace('_', '-')}", str(saved["model"][name]))
    ]
    assert parse(*words).model == model


def test_a_field_left_out_has_its_default_and_numbers_are_of_the_fields_type():
    theta = parse("--model.positions", "Rope(theta=7)").model.positions.theta
    assert theta == 7.0 and isinstance(theta, float)
    assert parse("--model.positions", "Rope").model.positions == nn.Rope()
    assert parse("--model.positions", "None").model.positions is None
    assert parse().model.positions == nn.Learned(16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rope", "wanted one of Sinusoidal, Learned, Rope, Alibi, RelativeBias, None"),
        ("Rope(thet=1)", "Rope: got unknown fields ['thet']"),
        ("Rope(1e4)", "with fields by name"),
        ("Rope(theta=print(1))", "malformed node"),
        ("Rope(", "was never closed"),
        ("Patches(height=4, width=4)", "none of these"),
    ],
)
def test_a_value_of_no_such_kind_is_one_clear_error(text, said, capsys):
    with pytest.raises(SystemExit):
        parse("--model.positions", text)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Error parsing --model.positions" in error and said in error


def test_help_shows_the_kinds_and_the_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--model.positions Sinusoidal|Learned|Rope|Alibi|RelativeBias|None" in text
    assert "(default: 'Learned(max_length=16)')" in text
    assert "--model.n-layers INT" in text and "subcommands" not in text
