"""``tfm generate``: the library's continuations, with a run and with a checkpoint."""

import json

import jax
import jax.numpy as jnp

from tests.saved_runs import load_run_once
from tfm_jax import generate, pretrained
from tfm_jax.cli.generate import Generate


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def write(run, texts, seed=0, **options):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(texts)))
    options = {"max_length": 30, "processors": (generate.Temperature(0.8),), "key": keys, **options}
    return load_run_once(run, average=None).write(texts, **options)


def test_one_prompt_is_streamed(tfm, writer):
    (wanted,) = write(writer, ["abc"])
    assert "\n" in wanted
    status, out, _ = tfm("generate", writer, "abc", "--tokens", 30)
    assert (status, out) == (0, f"{wanted}\n")
    seeds = {tfm("generate", writer, "abc", "--tokens", 30, "--seed", seed)[1] for seed in (0, 1, 2)}
    assert len(seeds) == 3 and out in seeds
    assert tfm("generate", writer, "", "--tokens", 30)[1] == f"{write(writer, [''])[0]}\n"


def test_several_prompts_give_one_escaped_line_each(tfm, writer):
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


def test_sampling_options_are_logits_processors(tfm, writer):
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


def test_text_ends_before_a_stop_string(tfm, writer):
    (full,) = write(writer, ["abc"])
    stops = [full[9:11], full[5:7]]
    wanted = full[: min(full.find(stop) for stop in stops)]
    words = [word for stop in stops for word in ("--stop", stop)]
    assert tfm("generate", writer, "abc", "--tokens", 30, *words)[1] == f"{wanted}\n"


def test_checkpoint_instead_of_a_run(tfm, checkpoint, tmp_path):
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


def test_options_override_the_settings_of_the_checkpoint(tfm, checkpoint):
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
    # Any option of sampling turns sampling on, also a 0.
    assert Generate(model="it", top_k=0).option_settings()["do_sample"] is True


def test_generation_settings_change_the_output(tfm, checkpoint):
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
