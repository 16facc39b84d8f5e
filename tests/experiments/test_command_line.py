"""The two phases of the command line; tests/test_values.py has the JSON of the values."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line
from experiments.command_line import Sources
from experiments.config import RunConfig
from experiments.translation import config as translation
from tests.nn import third_party
from tfm_jax import nn, registry
from tfm_jax.ops.backends import BACKENDS
from tfm_jax.train.run_directory import RunDirectory
from tfm_jax.values import from_dict, to_dict

MODEL = nn.Config(positions=nn.Learned(16))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A run of a model."""

    model: nn.Config = MODEL


def parse(*argv):
    return command_line.parse(Config, argv)


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
def test_variants_round_trip_through_json_and_the_command_line(model):
    saved = json.loads(json.dumps(to_dict(Config(model=model))))
    assert from_dict(Config, saved) == Config(model=model)
    names = ("norm", "positions", "feed_forward", "patches")
    words = [
        word for name in names for word in (f"--model.{name.replace('_', '-')}", str(saved["model"][name]))
    ]
    assert parse(*words).model == model


def test_variant_fields_have_defaults_and_the_types_of_the_fields():
    theta = parse("--model.positions", "Rope(theta=7)").model.positions.theta
    assert theta == 7.0 and isinstance(theta, float)
    assert parse("--model.positions", "Rope").model.positions == nn.Rope()
    assert parse("--model.positions", "None").model.positions is None
    assert parse().model.positions == nn.Learned(16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rope", "wanted one of Sinusoidal, Learned, Rope, Alibi, RelativeBias, None"),
        (
            "Rope(thet=1)",
            "Rope: got unknown fields ['thet']; wanted some of ['fraction', 'pairing', 'theta']",
        ),
        ("Rope(1e4)", "with fields by name"),
        ("Rope(theta=print(1))", "malformed node"),
        ("Rope(", "was never closed"),
        ("Patches(height=4, width=4)", "wanted one of Sinusoidal, Learned"),
    ],
)
def test_unknown_variant_raises(text, message, capsys):
    with pytest.raises(SystemExit):
        parse("--model.positions", text)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Error parsing --model.positions" in error and message in error


def test_a_mesh_size_is_a_number_or_auto(capsys):
    mesh = parse("--mesh.data", "auto", "--mesh.tensor", "2").mesh
    assert (mesh.data, mesh.tensor, mesh.fsdp) == ("auto", 2, 1)
    for text, message in (
        ("x", "got 'x'; wanted an integer, or auto."),
        ("0", "--mesh.data: got 0; wanted 'auto'"),
    ):
        with pytest.raises(SystemExit):
            parse("--mesh.data", text)
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("argv", "mode", "after"),
    [
        ([], "auto", []),
        (["--distributed", "off", "--resume"], "off", ["--distributed", "off", "--resume"]),
        (["--distributed", "--resume"], "on", ["--distributed", "on", "--resume"]),
        (["--distributed"], "on", ["--distributed", "on"]),
        (["--distributed=h:1,2,0", "--distributed=h:1,2,1"], "h:1,2,1", ...),
    ],
)
def test_distributed_is_read_before_all_else(argv, mode, after):
    wanted = list(argv) if after is ... else after
    assert command_line._read_distributed(argv) == mode
    assert argv == wanted


def test_help_shows_the_variants_and_the_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--model.positions Sinusoidal|Learned|Rope|Alibi|RelativeBias|None" in text
    assert "(default: 'Learned(max_length=16)')" in text
    assert "--model.n-layers INT" in text and "subcommands" not in text


def test_sources_are_read_and_other_options_ignored():
    assert command_line.read_sources([]) == Sources()
    argv = ["--data.source=x", "--out", "a b", "--resume", "--model.n-layers", "2", "--init_from", "y"]
    assert command_line.read_sources(argv) == Sources("x", Path("a b"), True, "y")
    assert command_line.read_sources(["--data.vocab_size=3"]).tokenizer == ("--data.vocab-size",)
    assert command_line.read_sources(["--out"]).out is None  # phase 2 raises


def test_a_flag_with_a_value_is_an_error_of_phase_2(capsys):
    assert command_line.read_sources(["--resume=1"]) == Sources()
    with pytest.raises(SystemExit):
        parse("--resume=1")
    assert "Unrecognized options: 1" in capsys.readouterr().err


def test_defaults_are_those_of_the_run_to_resume(tmp_path):
    sources = Sources(out=tmp_path, resume=True)
    assert sources.defaults(Config) == Config()  # Run raises for the missing run
    RunDirectory(tmp_path, to_dict(Config(model=nn.Config(n_layers=9))))
    assert sources.defaults(Config).model.n_layers == 9
    assert command_line.parse(Config, ["--out", str(tmp_path), "--resume"]).model.n_layers == 9


def test_defaults_are_those_for_the_data_source():
    assert type(Sources().defaults(translation.Config)) is translation.Config
    text = Sources("x").defaults(translation.Config)
    assert type(text) is translation.TextConfig and text == translation.TextConfig()


def test_defaults_with_init_from_have_the_model_of_the_weights(tmp_path):
    saved = translation.Config(model=nn.Config(n_layers=9, vocab_size=7))
    RunDirectory(tmp_path, to_dict(saved))
    sources = Sources(init_from=str(tmp_path))
    found = sources.defaults(translation.Config)
    assert (found.model.n_layers, found.model.vocab_size, found.init_from) == (9, 7, str(tmp_path))
    assert found.model.unroll  # as the default model of the experiment
    with pytest.raises(ValueError, match=r"--init-from: got --data.tokenizer; wanted the tokenizer of the w"):
        dataclasses.replace(sources, tokenizer=("--data.tokenizer",)).defaults(translation.Config)


def test_prog_is_the_command_of_the_help(capsys):
    with pytest.raises(SystemExit):
        command_line.parse(Config, ["--help"], prog="python -m experiments.x")
    assert capsys.readouterr().out.startswith("usage: python -m experiments.x [-h]")


def test_a_registered_variant_of_a_user_is_an_option(monkeypatch, tmp_path, capsys):
    text = "DynamicTanh(alpha=0.25)"
    with pytest.raises(SystemExit):
        parse("--model.norm", text)
    assert "nn.register_variant(DynamicTanh)" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    nn.register_variant(third_party.DynamicTanh)
    nn.register_variant(third_party.Swish)
    config = parse("--model.norm", text, "--model.feed-forward", "Glu(activation=Swish(beta=2))").model
    assert config.norm == third_party.DynamicTanh(0.25)
    assert config.feed_forward == nn.Glu(third_party.Swish(2.0))
    RunDirectory(tmp_path, to_dict(Config(model=config)))
    assert parse("--out", str(tmp_path), "--resume").model == config
    with pytest.raises(SystemExit):
        parse("--help")
    assert "LayerNorm|RMSNorm|DynamicTanh" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_initializers_and_a_backend_are_options():
    model = parse("--model.initializers.kernel", "TruncatedNormal(std=0.1)").model
    assert model.initializers == nn.Initializers(nn.TruncatedNormal(0.1))
    assert from_dict(nn.Config, to_dict(model)) == model
    assert parse("--model.attention-implementation", "xla").model.attention_implementation == "xla"


def test_a_backend_as_a_default_is_an_option_too():
    default = nn.Config(attention_implementation=BACKENDS["xla"])

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WithBackend(RunConfig):
        model: nn.Config = default

    assert command_line.parse(WithBackend, []).model.attention_implementation == "xla"
