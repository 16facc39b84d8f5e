"""Values for small data of the fields that no option sets."""

import dataclasses
import json

import pytest

from experiments import command_line, small_data
from experiments.config import RunConfig, SmallData
from experiments.language_model.config import Config as LanguageModelConfig
from experiments.translation.config import Config as TranslationConfig
from experiments.translation.plan import parse as plan_translation
from tfm_jax import nn
from tfm_jax.values import from_dict, to_dict

MODEL = nn.Config(d_model=64, n_heads=4, n_layers=6)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    source: str = "dates"
    splits: str | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    text: str = "text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A run."""

    data: DataConfig = DataConfig()
    model: nn.Config = MODEL

    SMALL_DATA = SmallData(
        "rows",
        {
            10: {
                "model.d_model": 16,
                "model.n_heads": 2,
                "model.n_layers": 1,
                "train.batch_size": 4,
                "train.steps": 200,
                "train.optimizer.warmup": 30,
            },
            40: {"model.n_layers": 3},
        },
    )


@pytest.fixture
def source(tmp_path):
    def write(n, name="a.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": f"t{i}", "n": i}) + "\n" for i in range(n)))
        return str(path)

    return write


def parse(*argv, config=Config):
    return command_line.parse(config, argv, prog="python -m experiments.some")


def test_the_amount_of_data_decides_and_a_line_says_what_it_chose(source, capsys):
    config = parse("--data.source", source(9))
    model, settings = config.model, config.train
    assert (model.d_model, model.n_heads, model.n_layers) == (16, 2, 1)
    assert (settings.batch_size, settings.steps, settings.optimizer.warmup) == (
        4,
        200,
        20,
    )  # a tenth of steps
    assert capsys.readouterr().err == (
        "some: defaults for 9 rows: --model.d-model 16 --model.n-heads 2 --model.n-layers 1 "
        "--train.batch-size 4 --train.steps 200 --train.optimizer.warmup 20 "
        "(give one of these options to set it)\n"
    )
    assert parse("--data.source", source(10)).model == dataclasses.replace(Config().model, n_layers=3)
    capsys.readouterr()
    for n in (40, 41):
        assert parse("--data.source", source(n)) == parse("--data.source", source(n), "--train.steps", "1000")
    assert capsys.readouterr().err == ""


def test_options_keep_their_values_and_those_that_have_to_fit_them(source):
    path = source(9)
    config = parse("--data.source", path, "--model.d_model=64", "--train.steps", "50", "--mesh.data", "2")
    assert (config.model.d_model, config.model.n_heads, config.model.n_layers) == (64, 4, 1)
    assert (config.train.steps, config.train.optimizer.warmup, config.train.batch_size) == (50, 5, 64)
    assert parse("--data.source", path, "--train.optimizer.warmup", "33").train.optimizer.warmup == 33
    assert parse("--data.source", path, "--train.optimizer.frozen-layers", "2").model.n_layers == 6


def test_built_in_data_and_data_that_cannot_be_read_keep_the_defaults(source, tmp_path, capsys):
    assert parse() == parse("--data.source", "dates") == Config()
    (tmp_path / "bad.jsonl").write_text("{")
    for name in ("none.jsonl", "bad.jsonl"):
        path = str(tmp_path / name)
        assert parse("--data.source", path) == Config(data=DataConfig(source=path))
    assert capsys.readouterr().err == ""


def test_a_resume_does_not_choose_again(source, tmp_path):
    path, out = source(9), tmp_path / "run"
    config = parse("--data.source", path, "--out", str(out))
    out.mkdir()
    (out / "config.json").write_text(json.dumps(to_dict(config)))
    source(30)
    again = parse("--out", str(out), "--resume")
    assert again == dataclasses.replace(config, resume=True)


def test_the_experiments_and_their_plans_fit_small_data(tmp_path, capsys):
    (tmp_path / "a.en").write_text("one\n" * 1200)
    (tmp_path / "a.fr").write_text("un\n" * 1200)
    argv = ["--data.source", str(tmp_path / "a.en"), str(tmp_path / "a.fr")]
    config = parse(*argv, config=TranslationConfig)
    assert (config.model.d_model, config.model.n_layers, config.data.vocab_size) == (128, 2, 2000)
    assert "some: defaults for 1,200 pairs: --model.d-model 128" in capsys.readouterr().err
    assert plan_translation(argv) == config
    (tmp_path / "a.txt").write_text("x" * 100)
    text = ["--data.source", str(tmp_path / "a.txt")]
    config = parse(*text, config=LanguageModelConfig)
    assert (config.data.length, config.data.overlap, config.train.batch_size) == (64, 32, 4)


def configs():
    for kind in (TranslationConfig.for_data("a"), LanguageModelConfig):
        assert kind.SMALL_DATA is not None
        for limit in kind.SMALL_DATA.values:
            yield pytest.param(kind, limit - 1, id=f"{kind.SMALL_DATA.unit}-{limit}")


@pytest.mark.parametrize(("kind", "n"), list(configs()))
def test_the_values_of_an_experiment_fit_each_other_and_initial_weights(kind, n, monkeypatch):
    monkeypatch.setattr(small_data, "_count", lambda *_: n)
    config = dataclasses.replace(kind(), data=dataclasses.replace(kind().data, source="a"))
    fitted, line = small_data.fit_to_data(config, ())
    fitted.train.optimizer.build(fitted.model.d_model, fitted.train.steps)
    assert fitted.model.d_model % fitted.model.n_heads == 0 and f"{n:,}" in line
    assert fitted != config and from_dict(kind, to_dict(fitted)) == fitted
    started, _ = small_data.fit_to_data(dataclasses.replace(config, init_from="x"), ())
    assert started.model == config.model and started.data.vocab_size == config.data.vocab_size
