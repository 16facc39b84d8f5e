"""The commands of docs/experiments.md, in order, with an experiment that computes nothing."""

import re
import shlex
from pathlib import Path

from experiments import command_line
from experiments.images.config import Config
from tests.experiments.test_sweep import toy as toy  # the fixture
from tfm_jax import cli, nn
from tfm_jax.train.run_directory import load_config

TEXT = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def config_of(name):
    return load_config(Config, Path("runs") / name / "config.json")


def test_the_commands_of_the_page_run(toy, capsys):
    Path("small.txt").write_text(blocks("ini")[0])
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        words = shlex.split(line)
        if words[0] == "tfm":
            assert cli.main(words[1:]) == 0
        else:
            assert words[:3] == ["python", "-m", "experiments.images"]
            command_line.run(toy, Config, words[3:], name="images")
    assert config_of("b").train.steps == 500 and config_of("b").model.positions == nn.Alibi()
    assert config_of("c").train == config_of("b").train and config_of("c").model == config_of("b").model
    d = config_of("d")
    assert (d.train.steps, d.train.seed, d.model.n_layers, d.data.size) == (500, 3, 2, (12, 6))
    assert not d.model.tie_embeddings
    assert len(list(Path("runs/rates").glob("*/result.json"))) == 6
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 4 + 4
    assert "train.steps" not in printed and "model.positions" in printed and '"equal": {' in printed


def test_the_file_of_the_page_is_a_config(toy):
    Path("c.json").write_text(blocks("json")[0])
    found = command_line.parse(Config, ["--config", "c.json"])
    assert (found.model.d_model, found.model.positions) == (32, nn.Rope(100.0))
    assert (
        found.train.optimizer.learning_rate == 0.001 and found.train.batch_size == Config().train.batch_size
    )
