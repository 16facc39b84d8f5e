import functools
import gzip
import importlib.util
import json
import math
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line, runner
from experiments.translation import corpus, decode
from experiments.translation.config import Config, DataConfig, SearchConfig, TextConfig
from experiments.translation.run import main, make_loss
from tests.experiments.kill import kill_at
from tfm_jax import data, generate, nn, ops, train
from tfm_jax.ops import masks
from tfm_jax.values import from_dict, to_dict

SMALL = (
    "--model.d-model", "8", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "8",
    "--train.steps", "4", "--train.batch-size", "8", "--train.evaluate-every", "2",
    "--train.checkpoint-every", "2", "--train.optimizer.warmup", "2", "--train.log-every", "1",
    "--data.buckets", "1",
)  # fmt: skip
RUN_FILES = {
    "config.json", "tokenizer.json", "metrics.jsonl", "events", "checkpoints", "curves.png", "attention.png",
    "result.json", "model.json", "task.json", "inputs.npz",
}  # fmt: skip
NUMBERS = {"one": "un", "two": "deux", "three": "trois", "four": "quatre", "five": "cinq", "six": "six"}


def write_pairs(path, n, seed):
    """Writes numbers in English and French."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in rng.integers(1, 6, n):
        words = rng.choice(list(NUMBERS), size)
        rows.append({"translation": {"en": " ".join(words), "fr": " ".join(NUMBERS[w] for w in words)}})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


@pytest.fixture(autouse=True)
def few_dates(monkeypatch):
    monkeypatch.setattr("tfm_jax.data.builtin._DATE_ROWS", {"train": 300, "validation": 20, "test": 100})


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "train.jsonl", 200, 0)


def parse(argv):
    return command_line.parse(Config, argv)


def result_of(path):
    return json.loads((path / "result.json").read_text())


def test_dates_from_the_command_line_to_the_attention(tmp_path, capsys):
    out = tmp_path / "run"
    main(["--out", str(out), *SMALL, "--data.decoded", "5"])
    assert {p.name for p in out.iterdir()} == RUN_FILES
    result = result_of(out)
    assert result.keys() == {"test_pairs", "exact_match", "seconds"}
    assert result["test_pairs"] == 100 and 0 <= result["exact_match"] <= 1
    printed = capsys.readouterr().out
    assert "100 test (23.8 %); 0 of the test pairs are training pairs too" in printed
    # the date whose attention is drawn comes first
    first = next(line for line in printed.splitlines() if line.startswith("  source"))
    assert "星期" in first and printed.count("  reference  ") >= 4
    assert "exact_match: " in printed and str(out / "attention.png") in printed
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    evaluated = {f"validation/{name}" for name in ("loss", "accuracy", "exact_match")}
    assert evaluated <= lines[1].keys() and not evaluated & lines[0].keys()
    # resumed from the last checkpoint on other devices: the same metrics
    main(["--out", str(out), *SMALL, "--data.decoded", "5", "--resume", "--mesh.data", "2"])
    again = result_of(out)
    assert again["exact_match"] == result["exact_match"]
    assert parse(["--out", str(out), "--resume"]).model.d_model == 8  # options not given are those of the run


def test_no_date_is_in_two_splits():
    splits = corpus.load_pairs(DataConfig())
    days = {name: set(targets) for name, (_, targets) in splits.items()}
    assert not days["train"] & days["test"] and not days["train"] & days["validation"]
    assert not days["validation"] & days["test"]


@pytest.mark.slow
def test_parallel_text_from_three_files(tmp_path, pairs, capsys):
    out = tmp_path / "run"
    valid = write_pairs(tmp_path / "valid.jsonl.gz", 15, 1)
    test = write_pairs(tmp_path / "test.jsonl.gz", 30, 2)
    arguments = [
        "--out", str(out), *SMALL, "--data.vocab-size", "300", "--average", "2", "--data.batch-tokens", "64",
        "--data.source", pairs, "--data.validation", valid, "--data.test", test,
        "--data.pair", "en-fr",
    ]  # fmt: skip
    main(arguments)
    assert {p.name for p in out.iterdir()} == RUN_FILES
    result = result_of(out)
    assert {"bleu", "chrf", "bleu_signature", "chrf_signature", "exact_match", "seconds"} < result.keys()
    assert result["test_pairs"] == 30
    assert "tok:13a" in result["bleu_signature"] and "version:" in result["chrf_signature"]
    printed = capsys.readouterr().out
    assert "pairs: 200 train (81.6 %), 15 validation (6.1 %), 30 test (12.2 %)" in printed
    assert result["bleu_signature"] in printed and "  ours       " in printed
    tokenizer = data.load_tokenizer(out)
    assert 259 < tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode("one deux")) == "one deux"


def test_held_out_pairs_depend_on_the_source_texts_only(tmp_path, pairs):
    def load(source):
        return corpus.load_pairs(DataConfig(source=str(source), pair="en-fr", held_out=0.1))

    first = load(pairs)
    assert sum(len(sources) for sources, _ in first.values()) == 200
    assert not set(first["train"][0]) & {x for name in ("validation", "test") for x in first[name][0]}
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    flat = [{"fr": "corrected", "en": row["translation"]["en"]} for row in reversed(rows)]
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    again = load(tmp_path / "again.jsonl")
    assert {name: sorted(sources) for name, (sources, _) in again.items()} == {
        name: sorted(sources) for name, (sources, _) in first.items()
    }
    with pytest.raises(ValueError, match="wanted two of the languages 'en', 'fr'"):
        corpus.load_pairs(DataConfig(source=pairs, pair="de-fr"))


def test_columns_source_and_target_need_no_pair(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("source,target\n" + "".join(f"{i},{i}{i}\n" for i in "abcdefgh"))
    splits = corpus.load_pairs(DataConfig(source=str(path), held_out=0.2))
    assert all(
        b == a + a for sources, targets in splits.values() for a, b in zip(sources, targets, strict=True)
    )


def test_dates_in_json_lines_and_in_tables_with_another_encoding(tmp_path):
    days = [f"2020-01-{day:02}" for day in range(1, 11)]
    lines = [json.dumps({"translation": {"de": f"{day} März", "iso": day}}) + "\n" for day in days]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "a.csv").write_text("de;iso\n" + "".join(f"{d} März;{d}\n" for d in days), encoding="latin-1")
    shared = {"pair": "de-iso", "held_out": 0.2}
    for config in (
        DataConfig(source=str(tmp_path / "a.jsonl"), **shared),
        DataConfig(source=str(tmp_path / "a.csv"), separator=";", encoding="latin-1", **shared),
    ):
        pairs = [pair for split in corpus.load_pairs(config).values() for pair in zip(*split, strict=True)]
        assert sorted(pairs) == [(f"{day} März", day) for day in days]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source", "{}/none.jsonl"], "load: got .*none.jsonl' .*no file or directory"),
        (["--data.source", "{}/empty.jsonl"], "empty.jsonl: got an empty file"),
        (
            ["--data.source", "{}/train.jsonl", "--data.pair", "en-de"],
            "got --data.pair en-de; wanted two of the languages 'en', 'fr'",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.pair", "en"],
            "text_pairs: got --data.pair en; wanted two names",
        ),
        (
            ["--data.source", "{}/train.jsonl"],
            "the columns 'translation'; wanted 'source', 'target'. Choose with --data.pair en-fr",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.pair", "en-fr", "--data.test", "{}/none.jsonl.gz"],
            "load: got .*none.jsonl.gz' .*no file or directory",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.pair", "en-fr", "--data.held-out", "0"],
            "got no pairs for test and validation, and --data.held-out 0",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.pair", "en-fr", "--data.max-length", "2"],
            "got 5 texts, of which none is left: .*--data.max-length 2",
        ),
        (["--data.source", "some/pairs", "--data.pair", "en-fr"], "hub cannot be reached.*'dates'"),
        (["--model.vocab-size", "9"], "got source id 11 in row 0; wanted 0 <= source id < 9"),
        (["--model.positions", "Learned(max_length=30)"], "wanted at most max_length=30"),
        (["--mesh.data", "3"], "got --train.batch-size 8; wanted a multiple of .*, 3"),
    ],
)
def test_unusable_settings_exit_with_one_message_and_leave_no_run(tmp_path, pairs, arguments, message):
    (tmp_path / "empty.jsonl").touch()
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=f"(?s)translation: .*{message}"):
        main(["--out", str(out), *SMALL, *(text.format(tmp_path) for text in arguments)])
    assert not out.exists()


def test_resume_without_its_data_keeps_the_run(tmp_path):
    arguments = ["--out", str(tmp_path / "run"), *SMALL, "--data.source", str(tmp_path / "gone.jsonl")]
    runner.Run(parse(arguments), "translation")
    with pytest.raises(SystemExit, match=r"load: got .*gone\.jsonl"):
        main([*arguments, "--resume"])
    assert (tmp_path / "run" / "config.json").exists()


@pytest.fixture(scope="module")
def translator():
    """A random model, its tokenizer, and its translations in two shapes."""
    texts = ["abc", "cab bca", "c"]
    tokenizer = data.char_tokenizer(texts)
    config = nn.Config(vocab_size=tokenizer.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    model = nn.functionalize(nn.EncoderDecoder, config)
    params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init)(jax.random.key(1)))
    translate = decode.make_translate(model, tokenizer, [(4, 6), (9, 7)], [3, 2], SearchConfig(beams=3))
    return model, params, tokenizer, translate


def test_translations_equal_those_of_each_text_alone_in_order(translator):
    model, params, tokenizer, translate = translator
    # few lengths, as each compiles
    texts = ["bac", "abc abcb", "bbb", "", "c c", "c c c cc", "cab", "abcabcab", "bbbbbbbc"]
    config = generate.GenerationConfig((2,), start_id=1, beams=3, length_penalty=0.6, max_length=7)
    search = functools.partial(generate.beam_search, model, params, config=config)
    expected = []
    for text in texts:
        source = jnp.asarray([[*tokenizer.encode(text), tokenizer.eos_id]], jnp.int32)
        expected.append(tokenizer.decode(np.asarray(search(source).tokens[0, 0])))
    assert translate(params, texts) == expected
    assert len(set(expected)) > 3, "the translations are too similar to compare"
    # a source longer than the largest shape is truncated
    assert translate(params, ["abcabcabc", "abcabcab"])[:1] == translate(params, ["abcabcab"])


def test_loss_ignores_padding_and_smooths_in_training_only(translator):
    model, params, tokenizer, _ = translator
    rows = data.translation_examples(["abc", "c"], ["ba", "abcab"], tokenizer)
    loss_fn = jax.jit(make_loss(model, 0.5))
    narrow, wide = (rows.take(np.arange(2), shape) for shape in ((4, 6), (7, 9)))
    (total, weight), metrics = loss_fn(params, narrow, None)
    (other, _), _ = loss_fn(params, wide, None)
    np.testing.assert_allclose(total, other, rtol=1e-5)
    assert float(weight) == 3 + 6 == float(metrics["accuracy"][1])
    padding = masks.padding(narrow["source"] != 0)
    apply = jax.jit(functools.partial(model.apply, source_mask=padding))
    logits = np.asarray(apply(params, narrow["source"], narrow["target"]))
    labels = narrow["labels"]
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(total, -log_p[labels != 0].sum(), rtol=1e-5)
    correct = (np.argmax(logits, -1) == labels)[labels != 0]
    assert float(metrics["accuracy"][0]) == correct.sum()
    (smoothed, _), without = loss_fn(params, narrow, jax.random.key(0))
    assert abs(float(smoothed - total)) > 0.1 and without == {}


def test_an_evaluation_never_builds_the_logits_of_a_batch(translator):
    _, _, tokenizer, _ = translator
    V = tokenizer.vocab_size + 3  # no other size of the model
    model = nn.functionalize(
        nn.EncoderDecoder, nn.Config(vocab_size=V, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    )
    params = jax.jit(model.init)(jax.random.key(1))
    rows = data.translation_examples(["abc", "c"] * 3, ["ba", "abcab"] * 3, tokenizer)
    batch = rows.take(np.arange(6), (4, 190))  # more tokens than a chunk of the loss
    traced = jax.make_jaxpr(lambda params: make_loss(model, 0.5)(params, batch, None))(params)
    shapes = re.findall(r"f32\[([\d,]+)\]", str(traced))
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes if shape.endswith(f",{V}")]
    assert max(sizes) <= 1024 * V < 6 * 190 * V
    batch = rows.take(np.arange(6), (4, 11))  # no multiple of the positions of a chunk
    mask = masks.padding(batch["valid"])
    wanted = jax.jit(functools.partial(model.apply, source_mask=mask))(
        params, batch["source"], batch["target"]
    )
    loss, metrics = jax.jit(make_loss(model, 0.5))(params, batch, None)
    right = batch["weights"][np.argmax(wanted, -1) == batch["labels"]]
    assert tuple(map(float, metrics["accuracy"])) == (right.sum(), batch["weights"].sum())
    expected = ops.cross_entropy(wanted, batch["labels"], weights=batch["weights"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_training_loss_is_that_of_the_logits_of_one_call_with_its_dropout(translator):
    _, _, tokenizer, _ = translator
    fields = {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8, "dropout_rate": 0.3, "logits_bias": True}
    model = nn.functionalize(nn.EncoderDecoder, nn.Config(vocab_size=tokenizer.vocab_size, **fields))
    params = jax.jit(model.init)(jax.random.key(1))
    params["logits_bias"] = jnp.arange(float(tokenizer.vocab_size))
    batch = data.translation_examples(["abc", "c"], ["ba", "abcab"], tokenizer).take(np.arange(2), (4, 6))
    key, padding = jax.random.key(3), masks.padding(batch["valid"])

    def wanted(params):
        logits = model.apply(params, batch["source"], batch["target"], source_mask=padding, key=key)
        return ops.cross_entropy(logits, batch["labels"], weights=batch["weights"], label_smoothing=0.5)[0]

    step = jax.jit(jax.value_and_grad(lambda p: make_loss(model, 0.5)(p, batch, key)[0][0]))
    found, expected = step(params), jax.jit(jax.value_and_grad(wanted))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_shapes_fit_all_pairs_and_batches_have_their_size():
    texts = ["a" * n for n in (1, 2, 3, 9, 10, 30)]
    tokenizer = data.char_tokenizer(texts)
    rows = {name: data.translation_examples(part, part, tokenizer) for name, part in
            (("train", texts[:5]), ("validation", texts[5:]))}  # fmt: skip
    rounded, _ = corpus.make_shapes(rows, DataConfig(buckets=2), 8, 1, sides=4)
    assert rounded == [(12, 12), (32, 32)]
    shapes, sizes = corpus.make_shapes(rows, DataConfig(buckets=2), 8, 1)
    assert shapes == [(11, 11), (31, 31)] and sizes == [8, 8]
    _, sizes = corpus.make_shapes(rows, DataConfig(buckets=2, batch_tokens=80), 8, 2)
    assert sizes == [6, 2]


def test_text_metrics():
    references = ["the cat is on the mat", "there is a dog here"]
    metrics = decode.text_metrics("fr")
    best = metrics(references, references)
    assert best["bleu"] == pytest.approx(100) and best["chrf"] == pytest.approx(100)
    assert metrics(["the cat sat", "no"], references)["bleu"] < 50
    assert best["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    chinese = decode.text_metrics("zh")(["我喜欢猫"], ["我喜欢狗"])
    assert "tok:zh" in chinese["bleu_signature"] and chinese["bleu"] > 20
    if importlib.util.find_spec("MeCab") is None:
        with pytest.raises(ImportError, match=r"text_metrics: BLEU of 'ja': .* pip install sacrebleu\[ja\]"):
            decode.text_metrics("ja")
    assert decode.exact_match(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75


def test_command_line_has_the_defaults_of_its_data():
    dates, text = parse([]), parse(["--data.source", "x.jsonl", "--model.n-layers", "4"])
    assert type(dates) is Config and dates.data.tokenizer == "characters" and dates.average == 1
    assert type(text) is TextConfig and text.data.tokenizer == "bpe" and text.average == 5
    assert text.model.n_layers == 4 and parse(["--data.source=x"]).data.batch_tokens == 4096
    rope = parse(["--model.positions", "Rope(theta=1e6)"])
    assert rope.model.positions == nn.Rope(theta=1e6)
    for config in (dates, text, rope):
        saved = json.loads(json.dumps(to_dict(config)))
        assert from_dict(type(config), saved) == config


def test_help_lists_the_options_and_errors_name_them(capsys):
    for arguments, tokenizer in (([], "characters"), (["--data.source", "x"], "bpe")):
        with pytest.raises(SystemExit):
            parse([*arguments, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for part in (
            "Machine translation with an encoder-decoder",
            f"one for both languages. (default: {tokenizer})",
            "--model.positions Sinusoidal|Learned|Rope|Alibi|RelativeBias|None",
            "Label smoothing in training",
        ):
            assert part in text
    errors = {"--average=9": "--average: got 9 checkpoints of --train.keep 5",
                "--data.buckets=0": "--data.buckets: got 0; wanted an integer from 1 to"}  # fmt: skip
    for argument, message in errors.items():
        with pytest.raises(SystemExit):
            parse([argument])
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_killed_and_resumed_run_ends_with_the_same_parameters(tmp_path, pairs):
    uninterrupted, killed, steps = tmp_path / "uninterrupted", tmp_path / "killed", 20
    arguments = [
        *SMALL, "--data.source", pairs, "--data.pair", "en-fr", "--data.tokenizer", "characters",
        "--model.dropout-rate", "0.1", "--train.steps", str(steps),
    ]  # fmt: skip
    main(["--out", str(uninterrupted), *arguments])
    left = kill_at(8, "experiments.translation", *arguments, out=killed)
    assert 8 <= max(left) < steps and not (killed / "result.json").exists()
    main(["--out", str(killed), *arguments, "--resume"])
    chex.assert_trees_all_equal(*(train.load_params(out / "checkpoints") for out in (killed, uninterrupted)))
    assert result_of(killed)["bleu"] == result_of(uninterrupted)["bleu"]
