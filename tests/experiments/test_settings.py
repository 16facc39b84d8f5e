"""``--config`` and ``--set``: the values of fields from files and by name."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from experiments import command_line, settings
from experiments.config import RunConfig, TrainConfig
from experiments.images.config import Config as ImagesConfig
from experiments.translation import config as translation
from tests.experiments.test_small_data import Config as SmallConfig
from tfm_jax import nn
from tfm_jax.train.run_directory import RunDirectory
from tfm_jax.values import to_dict

MODEL = nn.Config(d_model=8, n_layers=1, n_heads=2)
TRAIN = TrainConfig(steps=12, evaluate_every=3, checkpoint_every=6)


@dataclasses.dataclass(frozen=True)
class Data:
    source: str | None = None
    size: tuple[int, int] | None = None
    files: tuple[str, ...] = ()
    kind: Literal["a", "b", 3] | None = None
    path: Path = Path("x")
    pair: str | tuple[str, str] | None = "x"
    share: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A run."""

    data: Data = Data()
    model: nn.Config = MODEL
    train: TrainConfig = TRAIN


def parse(*argv, config=Config):
    return command_line.parse(config, list(map(str, argv)))


def error_of(*argv, config=Config):
    with pytest.raises(SystemExit) as error:
        parse(*argv, config=config)
    return str(error.value)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.steps=5", 5),
        ("train.batch-size=5", 5),
        ("train.ema_decay=0.5", 0.5),
        ("train.patience=None", None),
        ("train.optimizer.learning_rate=1e-3", 1e-3),
        ("mesh.data=auto", "auto"),
        ("mesh.data=2", 2),
        ("model.positions=Alibi", nn.Alibi()),
        ("model.positions=Rope(theta=7)", nn.Rope(7.0)),
        ("model.positions=None", None),
        ("model.tie_embeddings=False", False),
        ("model.attention_output_bias=True", True),
        ("model.attention_output_bias=None", None),
        ("model.attention_implementation=xla", "xla"),
        ("model.initializers.kernel=TruncatedNormal(std=0.1)", nn.TruncatedNormal(0.1)),
        ("data.source=a b", "a b"),
        ("data.source=a=b", "a=b"),
        ("data.source=None", None),
        ("data.size=3 4", (3, 4)),
        ("data.files=a 'b c'", ("a", "b c")),
        ("data.files=", ()),
        ("data.pair=a", "a"),
        ("data.pair=a b", ("a", "b")),
        ("data.pair='a b'", "a b"),
        ("data.pair=it's", "it's"),
        ("data.pair=None", None),
        ("train.optimizer.extended=400 hold 600 rewarm", ((400, "hold"), (600, "rewarm"))),
        ("train.optimizer.extended=", ()),
        ("init_from=None", None),
        ("data.kind=3", 3),
        ("data.kind=b", "b"),
        ("data.path=a/b", Path("a/b")),
        ("data.share=1", 1.0),
        ("parallel=pmap", "pmap"),
        ("profile=1:2", "1:2"),
    ],
)
def test_set_reads_a_value_as_the_option_does(assignment, value):
    found = parse("--set", assignment)
    name = assignment.partition("=")[0].replace("-", "_")
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.steps=x"], "--set train.steps: got x; wanted an integer from 1 to"),
        (["train.steps=0"], "--set train.steps: got 0; wanted an integer from 1 to"),
        (["train.steps=1e3"], "--set train.steps: got 1e3; wanted an integer"),
        (["train.ema_decay=1.5"], "--set train.ema_decay: got 1.5; wanted a num"),
        (["model.tie_embeddings=no"], "--set model.tie_embeddings: got no; wanted True or False"),
        (["model.positions=rope"], "--set model.positions: got 'rope'; wanted one of Sinusoidal, Learn"),
        (["parallel=both"], "--set parallel: got both; wanted 'jit' or 'pmap'"),
        (["data.size=3"], "--set data.size: got 3; wanted a tuple of"),
        (["train.optimizer.extended=400 hold 600"], "extended: got 400 hold 600; wanted a tuple of a tuple"),
        (["data.size=3 x"], "--set data.size: got 3 x; wanted a tuple of"),
        (["train.stepz=1"], "--set: got train.stepz; wanted a field of the config, such as train.steps. --h"),
        (["data=1"], "--set: got data, which has several fields; wanted one of them, such as data.source."),
        (["train.steps.x=1"], "--set: got train.steps.x; wanted a field of the config"),
        (["=1"], "--set: got '=1'; wanted NAME=VALUE, such as train.steps=100."),
        (
            ["train.steps=1", "train.steps=2"],
            "--set: got train.steps twice; wanted one value. Leave one out.",
        ),
        (["out=x"], "--set: got out; wanted a field of the run. Give --out instead."),
        (["resume_step=1"], "--set: got resume_step; wanted a field of the run. Give --resume-step instead."),
        (
            ["gone.txt"],
            "--set: got 'gone.txt' (No such file or directory); wanted NAME=VALUE, or a file with",
        ),
    ],
)
def test_invalid_set_raises(words, message):
    assert error_of(*(word for text in words for word in ("--set", text))).startswith("error: ")
    assert message in error_of(*(word for text in words for word in ("--set", text)))


def test_set_reads_a_file_with_one_value_per_line(tmp_path):
    path = write(tmp_path / "values", "# a comment\n\ntrain.steps = 30\n  model.positions=Rope(theta=5)\n")
    found = parse("--set", path, "--set", "train.seed=4")
    assert (found.train.steps, found.model.positions, found.train.seed) == (30, nn.Rope(5.0), 4)
    write(path, "train.steps=30\ntrain.steps 3\n")
    assert error_of("--set", path) == (
        f"error: --set {path}:2: got 'train.steps 3'; wanted NAME=VALUE, such as train.steps=100."
    )
    write(path, "train.steps=30\n\ntrain.steps=4")
    assert f"--set {path}:3: got train.steps twice" in error_of("--set", path)
    assert "got train.seed twice" in error_of("--set", write(path, "train.seed=1"), "--set", "train.seed=1")
    path.write_bytes(b"\xff")
    assert f"--set {path}: got a file that is not UTF-8" in error_of("--set", path)


def test_an_option_is_above_set_which_is_above_the_file(tmp_path):
    file = write(
        tmp_path / "c.json",
        {"format": 2, "train": {"steps": 30, "seed": 3, "batch_size": 3}, "out": "gone", "resume": True},
    )
    options = ("--config", file, "--set", "train.steps=31", "--set", "train.seed=4", "--train.steps", "32")
    found = parse(*options)
    assert (found.train.steps, found.train.seed, found.train.batch_size) == (32, 4, 3)
    assert found.out is None and not found.resume
    assert found.train.evaluate_every == 3  # of the experiment, where the file has none
    assert type(found) is Config


def test_values_need_to_fit_together_only_when_all_are_set(capsys):
    """An evaluation every 5 steps does not fit checkpoints every 6, and the default model not five heads."""
    found = parse("--set", "train.checkpoint_every=5", "--train.evaluate-every", "5")
    assert found.train.checkpoint_every == 5
    assert parse("--set", "model.n_heads=5", "--model.d-model", "20").model.n_heads == 5
    for words in (["--set", "train.checkpoint_every=5"], ["--train.checkpoint-every", "5"]):
        with pytest.raises(SystemExit):
            parse(*words)
        error = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert "--train.checkpoint-every: got 5; wanted a multiple of" in error


def test_config_twice_is_an_error():
    assert error_of("--config", "a", "--config", "b").startswith(
        "error: --config: got it twice; wanted it once"
    )


def test_config_takes_the_file_of_a_run_or_its_directory(tmp_path):
    run = Config(model=nn.Config(d_model=16, n_heads=4, positions=nn.Alibi()), out=tmp_path, resume=False)
    RunDirectory(tmp_path / "run", to_dict(run))
    wanted = dataclasses.replace(run, out=None)
    assert parse("--config", tmp_path / "run" / "config.json") == wanted
    assert parse("--config", tmp_path / "run") == wanted


def test_config_of_version_0_1_is_migrated():
    old = Path(__file__).parents[1] / "fixtures" / "v0_1" / "digits" / "run" / "config.json"
    saved = json.loads(old.read_text())
    assert "held_out_salt" not in saved["data"] and "format" not in saved
    found = parse("--config", old, config=ImagesConfig)
    assert found.data.held_out_salt is None and found.model.d_model == saved["model"]["d_model"]


def test_a_file_without_a_format_is_that_of_a_whole_run(tmp_path):
    """A part of one would get the salt of version 0.1."""
    path = write(tmp_path / "c.json", {"data": {"held_out": 0.2}})
    assert error_of("--config", path, config=ImagesConfig) == (
        f'error: --config {path}: got no "format", and not the whole file of a run of version 0.1; wanted '
        'the number of the format. Add "format": 2'
    )


def test_the_data_of_a_file_decide_the_other_defaults(tmp_path):
    file = write(tmp_path / "c.json", {"format": 2, "data": {"source": "x.jsonl"}})
    found = parse("--config", file, config=translation.Config)
    assert found.label_smoothing == translation.TextConfig().label_smoothing == 0.1
    assert parse("--config", file, "--data.source", "dates", config=translation.Config).label_smoothing == 0.0
    assert parse("--set", "data.source=x.jsonl", config=translation.Config).label_smoothing == 0.1


def test_the_weights_of_a_file_or_of_set_decide_the_model(tmp_path):
    saved = Config(model=nn.Config(d_model=16, n_heads=4, vocab_size=7))
    RunDirectory(tmp_path / "start", to_dict(saved))
    file = write(tmp_path / "c.json", {"format": 2, "init_from": str(tmp_path / "start")})
    for words in (["--config", file], ["--set", f"init_from={tmp_path / 'start'}"]):
        found = parse(*words)
        assert (found.model.d_model, found.init_from) == (16, str(tmp_path / "start"))
    # A whole file has the model of its weights, here with another dropout rate.
    content = {"format": 2, "init_from": "gone", "model": {"d_model": 16, "dropout_rate": 0.5}}
    assert parse("--config", write(file, content)).model.dropout_rate == 0.5
    # Beside --init-from it is compared with the weights; what it leaves to the data is theirs.
    write(file, {"format": 2, "model": {"d_model": 8, "dropout_rate": 0.5, "vocab_size": 0}})
    found = parse("--config", file, "--init-from", tmp_path / "start").model
    assert (found.d_model, found.dropout_rate, found.vocab_size, found.n_heads) == (8, 0.5, 7, 4)
    write(file, {"format": 2, "init_from": str(tmp_path / "start")})
    for words in (["--init-from", "None"], ["--set", "init_from=None"]):
        found = parse("--config", file, *words)
        assert (found.init_from, found.model) == (None, MODEL)
    assert "--set data.vocab_size" in error_of(
        "--init-from", tmp_path / "start", "--set", "data.vocab_size=5", config=translation.Config
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "c.json: No such file or directory"),
        ("[1]", "c.json: got no JSON object (it is [1]); wanted the file that the run wrote"),
        ("{", "got no JSON object"),
        ({"format": 99}, "got format 99; wanted at most"),
        (
            {"format": 2, "model": {"d_modell": 3}},
            "Config.model: Config: got unknown fields ['d_modell']",
        ),
        ({"format": 2, "train": 3}, "Config.train: TrainConfig: got 3; wanted a JSON object"),
        (
            {"format": 2, "train": {"steps": "x"}},
            "c.json: Config.train: --train.steps: got 'x'; wanted an int",
        ),
        (
            {"format": 2, "train": {"evaluate_every": 5}},
            "--train.checkpoint-every: got 6; wanted a multiple",
        ),
    ],
)
def test_invalid_file_raises(content, message, tmp_path):
    path = tmp_path / "c.json"
    if content is not None:
        write(path, content)
    error = error_of("--config", path)
    assert error.startswith("error: --config") and message in error


def test_a_resume_takes_the_config_of_the_run(tmp_path):
    RunDirectory(tmp_path, to_dict(dataclasses.replace(Config(), train=TRAIN)))
    words = ("--out", tmp_path, "--resume")
    assert error_of(*words, "--config", tmp_path).startswith("error: --config: got --resume too; wanted one")
    assert parse(*words, "--set", "train.keep=9").train.keep == 9


def test_assignments_are_read_by_name():
    assert settings.read_assignments(["a.b-c=1", "--d=x=y"]) == {"a.b_c": "1", "d": "x=y"}


def test_fields_of_a_file_and_of_set_stay_on_small_data(tmp_path, capsys):
    """Those of the data set nothing else: 9 rows choose 1 layer, a width of 16 and 200 steps."""
    rows = write(tmp_path / "a.jsonl", '{"text": "t"}\n' * 9)
    file = write(tmp_path / "c.json", {"format": 2, "train": {"steps": 50}, "data": {"source": str(rows)}})
    found = parse("--config", file, "--set", "model.d_model=32", config=SmallConfig)
    assert (found.train.steps, found.model.d_model, found.model.n_layers) == (50, 32, 1)
    error = capsys.readouterr().err
    assert "defaults for 9 rows: --model.n-layers 1" in error and "d-model" not in error
    saved = write(tmp_path / "run.json", {"format": 2, **to_dict(found)})
    assert parse("--config", saved, config=SmallConfig) == found
    assert capsys.readouterr().err == ""


def test_two_files_are_one_source_in_a_file_and_in_set(tmp_path):
    names = [str(write(tmp_path / name, "one\n" * 50_000)) for name in ("a.en", "a.fr")]
    file = write(tmp_path / "c.json", {"format": 2, "data": {"source": names}})
    for words in (["--config", file], ["--set", f"data.source={' '.join(names)}"]):
        found = parse(*words, config=translation.Config)
        assert found.data.source == tuple(names) and found.label_smoothing == 0.1
