"""``tfm plan``, in this process, for CPUs."""

import importlib
import importlib.metadata

import pytest

from tfm_jax.cli.plan import split
from tfm_jax.cli.run import run
from tfm_jax.train.plan import cache, compiling

NAMES = ("classification", "images", "language_model", "translation")
TINY = [
    *("--model.d-model", "16", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "32"),
    *("--model.no-unroll", "--data.length", "8", "--data.overlap", "4", "--data.tokenizer", "bytes"),
]


@pytest.fixture(autouse=True)
def entry_points(monkeypatch, tmp_path):
    """The experiments of this checkout, and an empty cache directory."""
    points = [
        importlib.metadata.EntryPoint(name, f"experiments.{name}.plan", "tfm_jax.experiments")
        for name in NAMES
    ]
    points.append(importlib.metadata.EntryPoint("wrong", "math", "tfm_jax.experiments"))
    real = importlib.metadata.entry_points

    def listed(**selected):
        return points if selected == {"group": "tfm_jax.experiments"} else real(**selected)

    monkeypatch.setattr(importlib.metadata, "entry_points", listed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_own_options_are_split_from_those_of_the_experiment():
    assert split(["lm", "--topology", "v5e:2x4", "--mesh.fsdp", "8", "--search", "3", "--resume"]) == (
        ["lm", "--topology", "v5e:2x4", "--search", "3"],
        ("--mesh.fsdp", "8", "--resume"),
    )
    assert split(["lm", "--search"]) == (["lm", "--search", "6"], ())
    assert split(["lm", "--search", "--train.steps", "5"]) == (
        ["lm", "--search", "6"],
        ("--train.steps", "5"),
    )
    assert split(["lm", "--search=2", "--topology=cpu:8"]) == (["lm", "--search=2", "--topology=cpu:8"], ())
    assert split(["lm", "--help"]) == (["lm"], ("--help",))
    assert split(["--help"]) == (["--help"], ())
    assert split([]) == ([], ())


def test_a_plan_is_printed_and_comes_from_the_cache_the_second_time(capsys, monkeypatch):
    arguments = ["plan", "language_model", "--topology", "cpu:8", "--mesh.fsdp", "8", *TINY]
    assert run(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("cpu:8: fsdp 8; ")
    for part in ("memory a device", "FLOPs a step", "collectives", "all-gather over fsdp", "no estimate"):
        assert part in text
    assert "float32 products  float32" in text

    def fail(*arguments):
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiling, "compile_step", fail)
    assert run(arguments) == 0
    assert capsys.readouterr().out == text
    assert len(list(cache.directory().glob("*.json"))) == 1


def test_a_search_prints_its_progress_and_a_table(capsys):
    arguments = ["plan", "language_model", "--search", "1", "--topology", "cpu:8", *TINY]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "settings ranked by formula; compiles the best 1" in lines[0]
    assert lines[1].startswith("  1 of 1: ")
    assert lines[-1].startswith("The best of these: --mesh.")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "got the experiment 'nothing'; wanted one of these: classification, images, "),
        (["wrong"], "got the experiment 'wrong', a module without parse and plan"),
        (["language_model", "--topology", "v5e"], "got 'v5e'; wanted one of cpu:8, v5e:16x16"),
        (["language_model", "--mesh.data", "16"], "cpu:8: make_mesh: got data=16: 16 devices; wanted 1 to 8"),
        (["language_model", "--mesh.data", "4"], "cpu:8: got a mesh of 4 devices; wanted all 8"),
        (["language_model", "--mesh.data", "8", "--train.batch-size", "12"], "got a batch of 12 examples"),
        (["language_model", "--search", "0"], "--search: got 0; wanted"),
        (["language_model", "--search", "--train.batch-size", "3"], "some mesh of 8 devices"),
    ],
)
def test_an_error_is_one_line(arguments, message, capsys):
    batch = [] if "--train.batch-size" in arguments else ["--train.batch-size", "8"]
    assert run(["plan", *arguments, *(TINY if arguments[0] == "language_model" else []), *batch]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@pytest.mark.parametrize("option", ["--mesh.fsdp=8", "--model.remat=full"])
def test_a_search_replaces_no_option_silently(option, capsys):
    assert run(["plan", "language_model", "--search", "1", option, *TINY]) == 2
    printed = capsys.readouterr().err
    assert f"plan: got {option.partition('=')[0]} beside --search" in printed
    assert printed.count("\n") == 1


def test_the_key_of_a_saved_plan_has_the_sources_of_the_experiment_and_the_flags(monkeypatch, tmp_path):
    (tmp_path / "of_a_user.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("of_a_user")
    keys = [cache.key_of("e", "cpu:8", {}, "of_a_user") for _ in range(2)]
    (tmp_path / "of_a_user.py").write_text("x = 2\n")
    keys.append(cache.key_of("e", "cpu:8", {}, "of_a_user"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    keys += [cache.key_of("e", "cpu:8", {}, "of_a_user"), cache.key_of("e", "cpu:8", {})]
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_a_missing_cudnn_is_one_line(monkeypatch, capsys):
    def missing(*args, **kwargs):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr("tfm_jax.train.parallel.Jit.compile", missing)
    assert run(["plan", "language_model", "--topology", "cpu:8", "--mesh.fsdp", "8", *TINY]) == 2
    printed = capsys.readouterr().err
    assert "without cuDNN" in printed and "pip install 'tfm_jax[cuda13]'" in printed


def test_a_missing_compiler_is_one_line(monkeypatch, capsys):
    def missing(*args, **kwargs):
        raise RuntimeError("no plugin")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    assert run(["plan", "language_model", "--topology", "h200:8", *TINY]) == 2
    assert "pip install 'tfm_jax[cuda13]'" in capsys.readouterr().err


def test_help_of_the_command_and_of_the_experiment(capsys):
    for arguments, part in (
        (["plan", "--help"], "--topology"),
        (["plan", "images", "--help"], "--patch-size"),
    ):
        with pytest.raises(SystemExit) as exit:
            run(list(arguments))
        assert not exit.value.code
        assert part in capsys.readouterr().out
