"""The command, in this process, on runs of tiny models that were never trained."""

import dataclasses
import functools
import json
import logging
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.pretrained.tasks.test_sentence_embedding import as_pickle
from tests.pretrained.weights.test_files import CONFIG as LLAMA
from tfm_jax import cli, data, generate, nn, pretrained, runs, train, values
from tfm_jax.cli import lines as cli_lines
from tfm_jax.cli import text as cli_text
from tfm_jax.pretrained import generation_config
from tfm_jax.pretrained.tasks import text_generation

CONFIG = nn.Config(
    vocab_size=0, d_model=16, n_heads=2, d_ff=8, n_layers=1, positions=nn.Rope(), tie_embeddings=False
)
TEXTS = ["abc", "fedcbafedcbafe", "d", "ee", "aaaaaa", "bd"]


def make_run(path, module, config=CONFIG, *, scales=(1.0,), settings=None, ema=False, alphabet="abcdefgh"):
    """A run's directory, with a checkpoint for each scale of the parameters."""
    tokenizer = data.char_tokenizer(alphabet)
    tokenizer.save(path)
    saved = {"model": values.to_dict(config), "train": {"checkpoint_every": 1}, **(settings or {})}
    (path / "config.json").write_text(json.dumps(saved))
    model = nn.functionalize(module, dataclasses.replace(config, vocab_size=tokenizer.vocab_size))
    params = jax.jit(model.init)(jax.random.key(7))
    optimizer = optax.sgd(0.1)
    with train.Checkpoints(path / "checkpoints") as checkpoints:
        for step, scale in enumerate(scales):
            scaled = jax.tree.map(lambda p, scale=scale: p * scale, params)
            state = train.init_state(scaled, optimizer, jax.random.key(0), ema=ema)
            if ema:
                state = dataclasses.replace(state, ema=jax.tree.map(lambda p: p * 5, scaled))
            checkpoints.save(step + 1, dataclasses.replace(state, step=jnp.int32(step + 1)))
    return path


@pytest.fixture(scope="session")
def translator(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("translator"), nn.EncoderDecoder, scales=(3.0,))


@pytest.fixture(scope="session")
def writer(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("writer"), nn.Decoder, scales=(2.0,), alphabet="abcdef\n\\")


@pytest.fixture(scope="session")
def learned(tmp_path_factory):
    config = dataclasses.replace(CONFIG, positions=nn.Learned(24))
    return make_run(tmp_path_factory.mktemp("learned"), nn.Decoder, config, scales=(2.0,))


load_once = functools.cache(runs.load_run)


@functools.cache
def load_checkpoint(path, dtype, allow_pickle):
    return pretrained.load(path, dtype, allow_pickle=allow_pickle)


@pytest.fixture
def tfm(tfm, monkeypatch):
    """The command, for which a run or a checkpoint is read, and compiled for, once."""
    monkeypatch.setattr(runs, "load_run", load_once)
    load = lambda path, dtype, *, allow_pickle: load_checkpoint(str(path), dtype, allow_pickle)
    monkeypatch.setattr(text_generation, "load", load)
    return tfm


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def test_texts_files_and_standard_input_are_translated_in_their_order(tfm, translator, tmp_path):
    wanted = load_once(translator, average=None).translate(TEXTS)
    assert len(set(wanted)) > 3
    status, out, err = tfm("translate", translator, *TEXTS)
    assert (status, out) == (0, lines(wanted))
    (tmp_path / "file").write_text("\ufeff" + "\r\n".join(TEXTS))
    for size in (1, 2, 100):
        assert tfm("translate", translator, "--batch-size", size, stdin=lines(TEXTS).encode())[:2] == (
            0,
            lines(wanted),
        )  # fmt: skip
        assert tfm("translate", translator, "--file", tmp_path / "file", "--batch-size", size)[:2] == (
            0,
            lines(wanted),
        )  # fmt: skip
    assert "tfm: compiled beam search for 8 x 16 + 66 tokens, 4 beams in " in err or not err


def test_more_lines_than_are_read_at_once_stay_in_order(tfm, translator, monkeypatch):
    monkeypatch.setattr(cli_lines, "BATCHES", 1)
    wanted = load_once(translator, average=None).translate(TEXTS)
    got = tfm("translate", translator, "--batch-size", 2, stdin=lines([*TEXTS, "", *TEXTS]).encode())
    assert got[:2] == (0, lines([*wanted, "", *wanted]))


def test_how_a_translation_is_searched_for(tfm, translator):
    options = {"beams": 1, "length_penalty": 0.0, "max_length": 3}
    wanted = load_once(translator, average=None).translate(TEXTS[:1], **options)
    words = ["--beams", 1, "--length-penalty", 0, "--max-length", 3]
    assert tfm("translate", translator, TEXTS[0], *words)[:2] == (0, lines(wanted))
    assert len(data.char_tokenizer("abcdefgh").encode(wanted[0])) <= 3


BAD = b"abc\n\n\xff\xfe\nd\nab\xc3\n"


def test_a_bad_line_is_said_and_loses_no_other(tfm, translator, tmp_path):
    wanted = load_once(translator, average=None).translate(["abc", "d"])
    (tmp_path / "file").write_bytes(BAD)
    for words, stdin in ((["--file", tmp_path / "file"], None), ([], BAD)):
        status, out, err = tfm("translate", translator, *words, stdin=stdin)
        assert (status, out) == (1, lines([wanted[0], "", "", wanted[1], ""]))
        said = [line for line in err.splitlines() if "line" in line]
        assert [line[:31] for line in said] == [f"tfm: line {n}: this is not UTF-8:" for n in (3, 5)]


def test_a_prompt_that_does_not_fit_loses_no_other(tfm, learned):
    texts = ["abcdefghabcdefgh", "abc"]
    status, out, err = tfm("generate", learned, "--tokens", 16, stdin=lines(texts).encode())
    assert status == 1 and out.startswith("\n") and len(out.splitlines()) == 2
    assert "tfm: line 1: TextGenerator: got 'abcdefghabcdefgh' of 17 tokens; wanted at most 9" in err
    status, out, err = tfm("generate", learned, "--tokens", 16, texts[0])
    assert (status, out) == (2, "") and "of 17 tokens; wanted at most 9" in err


def write(run, texts, seed=0, **options):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(texts)))
    options = {"max_length": 30, "processors": (generate.Temperature(0.8),), "key": keys, **options}
    return load_once(run, average=None).write(texts, **options)


def test_one_prompt_is_written_on_as_it_is(tfm, writer):
    (wanted,) = write(writer, ["abc"])
    assert "\n" in wanted
    status, out, _ = tfm("generate", writer, "abc", "--tokens", 30)
    assert (status, out) == (0, f"{wanted}\n")
    seeds = {tfm("generate", writer, "abc", "--tokens", 30, "--seed", seed)[1] for seed in (0, 1, 2)}
    assert len(seeds) == 3 and out in seeds
    assert tfm("generate", writer, "", "--tokens", 30)[1] == f"{write(writer, [''])[0]}\n"


def test_of_several_prompts_each_is_a_line_that_can_be_read_back(tfm, writer):
    texts = ["abc", "ffff", "dd"]
    wanted = write(writer, texts)
    assert any("\n" in text for text in wanted) and any("\\" in text for text in wanted)
    for words, stdin in ((texts, None), ([], lines(texts).encode())):
        for size in (1, 2, 100):
            status, out, _ = tfm(
                "generate", writer, "--tokens", 30, "--batch-size", size, *words, stdin=stdin
            )
            assert status == 0 and len(out.splitlines()) == 3
            back = [line.encode().decode("unicode_escape") for line in out.splitlines()]
            assert back == wanted


def test_the_options_of_drawing_are_those_of_the_library(tfm, writer):
    words = {
        "--repetition-penalty": (1.5, generate.RepetitionPenalty(1.5)),
        "--no-repeat-ngram": (2, generate.NoRepeatNgram(2)),
        "--temperature": (1.3, generate.Temperature(1.3)),
        "--top-k": (3, generate.TopK(3)),
        "--top-p": (0.9, generate.TopP(0.9)),
        "--min-p": (0.01, generate.MinP(0.01)),
    }
    (wanted,) = write(writer, ["abc"], processors=tuple(value for _, value in words.values()))
    argv = [word for name, (value, _) in words.items() for word in (name, value)]
    assert tfm("generate", writer, "abc", "--tokens", 30, *argv)[1] == f"{wanted}\n"
    (likeliest,) = write(writer, ["abc"], processors=(), key=None)
    assert tfm("generate", writer, "abc", "--tokens", 30, "--temperature", 0)[1] == f"{likeliest}\n"


def test_the_text_ends_before_a_stop_text(tfm, writer):
    (whole,) = write(writer, ["abc"])
    stops = [whole[9:11], whole[5:7]]
    wanted = whole[: min(whole.find(stop) for stop in stops)]
    words = [word for stop in stops for word in ("--stop", stop)]
    assert tfm("generate", writer, "abc", "--tokens", 30, *words)[1] == f"{wanted}\n"


def test_a_file_has_a_bar_on_a_terminal_and_the_output_stays_clean(tfm, translator, tmp_path, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    (tmp_path / "file").write_bytes(BAD)
    _, out, err = tfm("translate", translator, "--file", tmp_path / "file")
    assert re.search("5/5\\S* lines", err) and "\x1b" not in out and len(out.splitlines()) == 5


def test_compile_times_are_said_once_whatever_other_libraries_log(capsys):
    logger, root = logging.getLogger("tfm_jax.generate"), logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        with cli_lines.log_lines("tfm_jax.generate", logging.INFO):
            logger.info("compiled it")
        logger.info("not said")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "tfm: compiled it\n" and logger.propagate


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["translate", "WRITER", "a"], "the model of WRITER does something else: use tfm generate"),
        (["generate", "TRANSLATOR", "a"], "use tfm translate"),
        (["translate"], "say which model: the directory of a run, or --model with a checkpoint"),
        (["generate", "a", "--model", "WRITER"], "must name one architecture"),
        (["generate", "WRITER", "--allow-pickle", "a"], "--allow-pickle is of a pretrained checkpoint"),
        (["generate", "a", "--model", "WRITER", "--average", "2"], "--average is of a run's checkpoints"),
        (["generate", "WRITER", "a", "--dtype", "bfloat16"], "--dtype is of a pretrained checkpoint"),
        (["translate", "NOWHERE", "a"], "NOWHERE is not the directory of a run: there is no config.json"),
        (["translate", "TRANSLATOR", "a", "--file", "b"], "arguments or the lines of --file, not both"),
        (["translate", "TRANSLATOR", "--file", "NOWHERE"], "NOWHERE: No such file or directory"),
        (["generate", "WRITER", "a", "--top-k", "99"], "--top-k: got 99; wanted at most the 12 tokens"),
        (["generate", "WRITER", "a", "--generation", "top_k=3"], "--generation is of a pretrained check"),
        (["generate", "--model", "WRITER", "a", "--generation", "3"], "--generation: got '3'; wanted NAME"),
        (
            ["translate", "--model", "WRITER", "a", "--beams", "2", "--generation", "num_beams=3"],
            "--generation: num_beams is there twice",
        ),
        (["translate", "--model", "NOWHERE", "a", "--generation", "new=3"], "got new=3 is not known"),
        (
            ["translate", "--model", "NOWHERE", "a", "--generation", "num_beams=0"],
            "num_beams=0, wanted a whole number of at least 1",
        ),
        (["generate", "WRITER", "a", "--stop", ""], "--stop: got ''; wanted a text that is not empty"),
        (["generate", "WRITER", "\udcff"], "this is not UTF-8"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(argv, said, tfm, translator, writer, tmp_path):
    places = {"WRITER": writer, "TRANSLATOR": translator, "NOWHERE": tmp_path / "nowhere"}
    status, out, err = tfm(*(places.get(word, word) for word in argv))
    for name, path in places.items():
        said = said.replace(name, str(path))
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith("tfm: ") and said in err


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("checkpoints", "there is no checkpoint in"),
        ("tokenizer.json", "there is no tokenizer at"),
        ("config.json", "does not say what the model is"),
    ],
)
def test_a_run_that_lacks_a_part(broken, said, tfm, translator, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(translator, run)
    if broken == "checkpoints":
        shutil.rmtree(run / broken)
    elif broken == "config.json":
        (run / broken).write_text('{"model": {"depth": 3}}')
    else:
        (run / broken).unlink()
    status, out, err = tfm("translate", run, "a")
    assert (status, out) == (2, "") and said in err and len(err.splitlines()) == 1


def test_a_model_that_writes_no_text_is_refused(tmp_path):
    classifier = functools.partial(nn.Classifier, n_classes=2)
    with pytest.raises(ValueError, match="writes no text: its parameters are"):
        runs.load_run(make_run(tmp_path, classifier))


def largest(run, **options):
    """The scale of the parameters that were read, beside those of scale 1."""
    table = lambda params: np.asarray(params["embedding"]["table"])
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, vocab_size=12))
    first = table(jax.jit(model.init)(jax.random.key(7)))
    return round(float(np.abs(table(runs.load_run(run, **options).params)).max() / np.abs(first).max()), 4)


def test_the_mean_of_the_last_checkpoints(tmp_path):
    run = make_run(tmp_path, nn.Decoder, scales=(1.0, 2.0, 6.0), settings={"average": 2})
    assert largest(run) == 4.0  # as its config says
    assert largest(run, average=1) == 6.0 and largest(run, average=3) == 3.0
    with pytest.raises(ValueError, match="the last 4 checkpoints"):
        runs.load_run(run, average=4)
    with pytest.raises(ValueError, match="the last 0 checkpoints"):
        runs.load_run(run, average=0)
    few = json.loads((run / "config.json").read_text()) | {"average": 5}
    (run / "config.json").write_text(json.dumps(few))
    assert largest(run) == 3.0  # as many as there are


def test_the_moving_average_of_a_run_that_keeps_one(tmp_path):
    run = make_run(tmp_path, nn.Decoder, scales=(2.0,), ema=True)
    assert largest(run) == 10.0


@pytest.mark.parametrize("command", ["translate", "generate"])
def test_help_shows_every_option(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "RUN [TEXT ...]" in text
    kind = {"translate": cli_text.Translate, "generate": cli_text.Generate}[command]
    for field in dataclasses.fields(kind):
        if field.name in ("first", "rest"):
            continue
        assert f"--{field.name.replace('_', '-')} " in text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint of transformers' that draws."""
    tokenizer = data.char_tokenizer("abcdefgh")
    config = pretrained.Config("LlamaForCausalLM", LLAMA.model)
    config = dataclasses.replace(
        config, model=dataclasses.replace(LLAMA.model, vocab_size=tokenizer.vocab_size)
    )
    config = dataclasses.replace(
        config, generation={"do_sample": True, "max_new_tokens": 9, "eos_token_id": 2, "top_k": 7}
    )
    params = jax.jit(nn.functionalize(nn.Decoder, config.model).init)(jax.random.key(2))
    directory = tmp_path_factory.mktemp("checkpoints") / "llama"
    pretrained.save(directory, params, config, tokenizer.backend)
    return directory


def test_a_checkpoint_in_the_place_of_a_run(tfm, checkpoint, tmp_path):
    texts = ["abc", "hg", "d"]
    generator = pretrained.load_text_generator(checkpoint)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(3))
    wanted = generator.write(texts, key=keys)
    assert len(set(wanted)) == 3
    assert tfm("generate", "--model", checkpoint, *texts)[:2] == (0, lines(wanted))
    assert tfm("generate", texts[0], "--model", checkpoint)[:2] == (0, lines(wanted[:1]))
    (tmp_path / "file").write_text("\n".join(texts))
    argv = ["generate", "--model", checkpoint, "--file", tmp_path / "file"]
    assert tfm(*argv, "--batch-size", 1)[:2] == (0, lines(wanted))
    assert tfm(*argv, "--seed", 3)[1] != lines(wanted)


def test_options_change_what_the_checkpoint_says(tfm, checkpoint):
    argv = ["generate", "--model", checkpoint, "abc"]
    likeliest = pretrained.load_text_generator(checkpoint, generation={"do_sample": False}).write(
        ["abc"], key=None, max_length=4
    )
    assert tfm(*argv, "--temperature", 0, "--tokens", 4)[:2] == (0, lines(likeliest))
    assert tfm(*argv, "--temperature", 0, "--top-k", 3, "--tokens", 4)[:2] == (0, lines(likeliest))
    assert tfm(*argv, "--temperature", 0, "--top-k", 0, "--tokens", 4)[:2] == (0, lines(likeliest))
    texts, keys = "abcdefg", jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(7))
    argv = [*argv[:-1], *texts, "--temperature", 9]
    hot = pretrained.load_text_generator(
        checkpoint, generation={"temperature": 9.0, "top_p": 0.9, "top_k": 0}
    )
    got = tfm(*argv, "--top-p", 0.9, "--top-k", 0)[1]
    assert got == lines(hot.write(list(texts), key=keys)) != tfm(*argv, "--top-p", 0.9)[1]
    # What is said of drawing draws, a 0 too.
    assert cli_text.Generate(model="it", top_k=0).settings()["do_sample"] is True


SETTINGS = {"do_sample": True, "renormalize_logits": True, "num_beams": 2, "early_stopping": "never"}
SETTINGS |= {"length_penalty": 0.5, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
SETTINGS |= {"max_length": 11, "max_new_tokens": 7, "min_length": 3, "min_new_tokens": 2}
SETTINGS |= {"bos_token_id": 3, "eos_token_id": [2, 4], "pad_token_id": 1, "decoder_start_token_id": 4}
SETTINGS |= {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "suppress_tokens": [6]}
SETTINGS |= {"begin_suppress_tokens": [7], "bad_words_ids": [[3, 4]], "stop_strings": ["a", "b c"]}
SETTINGS |= {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}


@pytest.mark.parametrize("command", ["generate", "translate"])
def test_every_setting_of_generation_has_an_option(command, tfm, monkeypatch):
    """And so has a setting that is taken away."""

    def spy(path, dtype, *, generation, **options):
        found.append(generation)
        raise ValueError("seen")

    found, settings = [], {name: SETTINGS[name] for name in generation_config.SETTINGS}
    monkeypatch.setattr(pretrained, "load_text_generator", spy)
    for wanted in (settings, dict.fromkeys(settings)):
        words = [word for x in wanted for word in ("--generation", f"{x}={json.dumps(wanted[x])}")]
        assert tfm(command, "a", "--model", "it", *words)[2] == "tfm: seen\n"
        assert found.pop() == wanted


def test_a_setting_of_generation_changes_the_output(tfm, checkpoint):
    words = [
        "--generation",
        "do_sample=false",
        "--generation",
        "top_k=null",
        "--generation",
        "max_new_tokens=4",
    ]
    greedy = pretrained.load_text_generator(checkpoint, generation={"do_sample": False})
    likeliest = greedy.write(["abc"], key=None, max_length=4)
    assert tfm("generate", "--model", checkpoint, "abc", *words)[:2] == (0, lines(likeliest))
    (text,) = likeliest
    stop = text[1:3]
    wanted = lines([text.partition(stop)[0]])
    for option in (["--stop", stop], ["--generation", f"stop_strings={json.dumps(stop)}"]):
        assert tfm("generate", "--model", checkpoint, "abc", *words, *option)[:2] == (0, wanted)


def test_a_pickle_of_a_checkpoint_is_refused(tfm, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    status, out, err = tfm("generate", "--model", tmp_path / "pickled", "a")
    assert (status, out) == (2, "") and "are a pickle, which can run any code" in err


@pytest.mark.parity
def test_a_pickle_of_a_checkpoint_where_it_is_allowed(tfm, checkpoint, tmp_path):
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
