"""Options of ``tfm translate`` and ``tfm generate``: what fits together, and settings of a checkpoint."""

import dataclasses
import json
import shutil

import jax
import pytest

from tests.pretrained.tasks.test_sentence_embedding import as_pickle
from tfm_jax import cli, runs
from tfm_jax.cli.classify import Classify
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.generate import Generate
from tfm_jax.cli.translate import Translate
from tfm_jax.pretrained import generation_config
from tfm_jax.ranges import SIZE


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["translate", "WRITER", "a"],
            "WRITER: got a decoder-only model; wanted an encoder-decoder. Use tfm generate.",
        ),
        (
            ["generate", "TRANSLATOR", "a"],
            "TRANSLATOR: got an encoder-decoder; wanted a decoder-only model. Use tfm translate.",
        ),
        (["translate"], "tfm: got no model; wanted the directory of a run or a checkpoint, or owner/name"),
        (
            ["generate", "WRITER", "--allow-pickle", "a"],
            "--allow-pickle: got a run, WRITER; wanted a checkpoint. Leave it out.",
        ),
        (
            ["generate", "a", "--model", "CHECKPOINT", "--average", "2"],
            "--average: got a checkpoint, CHECKPOINT; wanted a run. Leave it out.",
        ),
        (
            ["translate", "CHECKPOINT", "a"],
            "CHECKPOINT: got a decoder-only model; wanted an encoder-decoder. Use tfm generate.",
        ),
        (["generate", "WRITER", "a", "--average", "9"], "--average: got 9; wanted 1 to "),
        (["translate", "NOWHERE", "a"], "got NOWHERE; wanted an existing directory"),
        (
            ["translate", "TRANSLATOR", "a", "--file", "b"],
            "--file: got inputs as arguments too; wanted only one of the two.",
        ),
        (["translate", "TRANSLATOR", "--file", "NOWHERE"], "NOWHERE: No such file or directory"),
        (
            ["generate", "WRITER", "a", "--top-k", "99"],
            "--top-k: got 99; wanted at most the vocabulary size, 12.",
        ),
        (
            ["generate", "WRITER", "a", "--generation", "top_k=3"],
            "--generation: got a run, WRITER; wanted a checkpoint. Leave it out.",
        ),
        (
            ["generate", "--model", "CHECKPOINT", "a", "--generation", "3"],
            "--generation: got '3'; wanted NAME",
        ),
        (
            ["translate", "--model", "CHECKPOINT", "a", "--beams", "2", "--generation", "num_beams=3"],
            "--generation: got num_beams twice",
        ),
        (
            ["generate", "--model", "CHECKPOINT", "a", "--generation", "new=3"],
            "got new=3; wanted a known",
        ),
        (
            ["generate", "--model", "CHECKPOINT", "a", "--generation", "num_beams=0"],
            f"num_beams=0; wanted {SIZE.wanted}",
        ),
        (["generate", "WRITER", "a", "--stop", ""], "--stop: got ''; wanted a string that is not empty"),
        (["generate", "WRITER", "\udcff"], "got a text that is not UTF-8"),
    ],
)
def test_errors_are_one_line(argv, message, tfm, translator, writer, checkpoint, tmp_path):
    places = {
        "WRITER": writer,
        "TRANSLATOR": translator,
        "CHECKPOINT": checkpoint,
        "NOWHERE": tmp_path / "nowhere",
    }
    status, out, err = tfm(*(places.get(word, word) for word in argv))
    for name, path in places.items():
        message = message.replace(name, str(path))
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith("tfm: ") and message in err


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("checkpoints", "load_run: got no checkpoint in"),
        ("tokenizer.json", "load_tokenizer: got"),
        ("config.json", "config.json: got no valid model config"),
    ],
)
def test_incomplete_runs_are_errors(broken, message, tfm, translator, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(translator, run)
    if broken == "checkpoints":
        shutil.rmtree(run / broken)
    elif broken == "config.json":
        (run / broken).write_text('{"model": {"depth": 3}, "train": {}}')
    else:
        (run / broken).unlink()
    status, out, err = tfm("translate", run, "a")
    assert (status, out) == (2, "") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["translate", "generate", "embed", "classify"])
def test_help_shows_every_option(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert (
        ended.value.code == 0 and f"tfm {command} [-h] [{command.upper()} OPTIONS] MODEL [INPUT ...]" in text
    )
    kind = {"translate": Translate, "generate": Generate, "embed": Embed, "classify": Classify}[command]
    for field in dataclasses.fields(kind):
        if field.name in ("first", "rest"):
            continue
        assert f"--{field.name.replace('_', '-')} " in text


@pytest.mark.parametrize(("dtype", "wanted"), [(None, "float32"), ("bfloat16", "bfloat16")])
def test_a_run_is_loaded_in_the_configured_dtype(dtype, wanted, writer):
    generator = Generate(first=str(writer), rest=("a",), dtype=dtype).load()
    assert {x.dtype.name for x in jax.tree.leaves(generator.params)} == {wanted}
    assert generator.model.config.dtype == wanted


SETTINGS = {"do_sample": True, "renormalize_logits": True, "num_beams": 2, "early_stopping": "never"}
SETTINGS |= {"length_penalty": 0.5, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
SETTINGS |= {"max_length": 11, "max_new_tokens": 7, "min_length": 3, "min_new_tokens": 2}
SETTINGS |= {"bos_token_id": 3, "eos_token_id": [2, 4], "pad_token_id": 1, "decoder_start_token_id": 4}
SETTINGS |= {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "suppress_tokens": [6]}
SETTINGS |= {"begin_suppress_tokens": [7], "bad_words_ids": [[3, 4]], "stop_strings": ["a", "b c"]}
SETTINGS |= {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}


def test_generation_accepts_every_setting(tfm, checkpoint, monkeypatch):
    """Also to unset it."""

    def spy(path, *, generation, **options):
        found.append(generation)
        raise ValueError("seen")

    found, settings = [], {name: SETTINGS[name] for name in generation_config.SETTINGS}
    monkeypatch.setattr(runs, "load_text_generator", spy)
    for wanted in (settings, dict.fromkeys(settings)):
        words = [word for x in wanted for word in ("--generation", f"{x}={json.dumps(wanted[x])}")]
        assert tfm("generate", "a", "--model", checkpoint, *words)[2] == "tfm: seen\n"
        assert found.pop() == wanted


def test_a_pickled_checkpoint_is_an_error(tfm, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    status, out, err = tfm("generate", "--model", tmp_path / "pickled", "a")
    assert (status, out) == (2, "") and "got a pickle, which can run any code" in err


@pytest.mark.parity
def test_a_pickled_checkpoint_with_allow_pickle(tfm, checkpoint, tmp_path):
    wanted = tfm("generate", "--model", checkpoint, "--temperature", 0, "--tokens", 3, "abc")[1]
    shutil.copytree(checkpoint, tmp_path / "pickled")
    as_pickle(tmp_path / "pickled")
    argv = [
        "generate",
        "--model",
        tmp_path / "pickled",
        "--temperature",
        0,
        "--tokens",
        3,
        "--allow-pickle",
        "abc",
    ]
    assert tfm(*argv)[:2] == (0, wanted)
