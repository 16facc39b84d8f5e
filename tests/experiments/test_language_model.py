import json
import lzma
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line
from experiments.language_model import bits, corpus
from experiments.language_model.config import Config, DataConfig
from experiments.language_model.run import main, make_loss
from experiments.runner import make_tokenizer
from tests.experiments.kill import kill_at
from tfm_jax import data, nn, train
from tfm_jax.values import from_dict, to_dict

SMALL = (
    "--model.d-model", "8", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "8",
    "--train.steps", "4", "--train.batch-size", "4", "--train.evaluate-every", "2",
    "--train.checkpoint-every", "2", "--train.optimizer.warmup", "2", "--train.log-every", "1",
    "--data.length", "32", "--data.overlap", "8", "--sample.tokens", "5",
)  # fmt: skip
RUN_FILES = {
    "config.json", "tokenizer.json", "metrics.jsonl", "events", "checkpoints", "curves.png", "sample.txt",
    "result.json", "model.json", "task.json", "inputs.npz",
}  # fmt: skip
METRICS = {"validation_loss", "bits_per_byte", "xz_bits_per_byte", "validation_tokens", "validation_bytes"}
WORDS = ["the", "cat", "sat", "on", "a", "mat;", "die", "Katze", "saß", "da.", "猫坐在垫子上。"]


def make_texts(n, seed, most=30):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most))) for _ in range(n)]


def write_rows(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "train.jsonl", make_texts(60, 0))


def result_of(path):
    return json.loads((path / "result.json").read_text())


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_bpe_from_the_command_line_to_the_sample(tmp_path, rows, capsys):
    out = tmp_path / "run"
    arguments = ["--out", str(out), *SMALL, "--data.source", rows, "--data.vocab-size", "300"]
    main([*arguments, "--sample.prompt", "the cat"])
    assert {p.name for p in out.iterdir()} == RUN_FILES
    result = result_of(out)
    assert result.keys() == {*METRICS, "seconds"}
    bpb = result["validation_loss"] / math.log(2) * result["validation_tokens"] / result["validation_bytes"]
    assert result["bits_per_byte"] == pytest.approx(bpb, rel=1e-6)
    training, validation = corpus.load_texts(DataConfig(source=rows))
    assert 50 < len(training) < 60 and result["validation_bytes"] == len("".join(validation).encode())
    tokenizer = data.load_tokenizer(out)
    assert 259 < tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode("die 猫")) == "die 猫"
    assert result["validation_tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in validation)
    printed = capsys.readouterr().out
    assert f"train: {len(training)} texts, {len(''.join(training).encode()):,} bytes" in printed
    assert f"{tokenizer.vocab_size} tokens in the vocabulary" in printed
    assert "bits_per_byte: " in printed and "xz_bits_per_byte: " in printed
    sample = (out / "sample.txt").read_text(encoding="utf-8")
    assert sample.startswith("the cat") and sample in printed
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert "validation/loss" not in lines[0]
    # The first steps compile, which no rate counts.
    assert "tokens_per_second" in lines[-1] and "tokens_per_second" not in lines[0]
    for line in lines[1::2]:  # the same texts without overlap
        share = line["validation/bits_per_byte"] / line["validation/loss"]
        assert share == pytest.approx(result["bits_per_byte"] / result["validation_loss"], rel=1e-5)
    # resumed from the last checkpoint on other devices: the same metrics and sample
    main([*arguments, "--sample.prompt", "the cat", "--resume", "--mesh.data", "2", "--parallel", "pmap"])
    again = result_of(out)
    for name in METRICS:
        assert again[name] == pytest.approx(result[name], rel=1e-5)
    assert (out / "sample.txt").read_text(encoding="utf-8") == sample


def test_texts_with_another_encoding_and_separator(tmp_path):
    (tmp_path / "a.csv").write_text("text;n\n" + "größe, NA;1\n" * 20, encoding="latin-1")
    (tmp_path / "b.csv").write_text("text;n\nNA;1\n", encoding="latin-1")
    paths = {"source": str(tmp_path / "a.csv"), "validation": str(tmp_path / "b.csv")}
    found = corpus.load_texts(DataConfig(separator=";", encoding="latin-1", **paths))
    assert found == (["größe, NA"] * 20, ["NA"])


@pytest.mark.slow
def test_bytes_of_text_files_with_a_validation_file(tmp_path):
    out = tmp_path / "run"
    (tmp_path / "train.txt").write_text("\n".join(make_texts(20, 1)), encoding="utf-8")
    (tmp_path / "other.txt").write_text("\n".join(make_texts(5, 2)), encoding="utf-8")
    main([
        "--out", str(out), *SMALL, "--data.source", str(tmp_path / "train.txt"), "--data.validation",
        str(tmp_path / "other.txt"), "--data.tokenizer", "bytes", "--data.validation-bytes", "100",
    ])  # fmt: skip
    result = result_of(out)
    text = (tmp_path / "other.txt").read_bytes()[:100].decode(errors="ignore")
    assert result["validation_bytes"] == len(text.encode()) and 97 <= result["validation_bytes"] <= 100
    assert result["validation_tokens"] == len(text.encode()) + 1
    assert result["bits_per_byte"] < 10, "worse than uniform"
    assert isinstance(data.load_tokenizer(out), data.ByteTokenizer)


def test_standard_library_is_the_default():
    training, validation = corpus.load_texts(DataConfig())
    assert len(training) > 300 and len(validation) > 10 and not set(training) & set(validation) - {""}
    assert sum(len(text.encode()) for text in validation) <= DataConfig().validation_bytes
    assert any("def " in text for text in validation)


def test_end_of_one_short_text_is_held_out(tmp_path):
    (tmp_path / "book.txt").write_text("".join(f"a line {i}\n" for i in range(15)))
    config = DataConfig(source=str(tmp_path / "book.txt"), held_out=0.2)
    training, validation = corpus.load_texts(config)
    assert validation == ["a line 12\na line 13\na line 14\n"] and "".join(training).endswith("line 11\n")
    (tmp_path / "book.txt").write_text("a" * 99)
    with pytest.raises(ValueError, match=r"got 99 characters of text; wanted at least 100"):
        corpus.load_texts(config)


@pytest.mark.parametrize("overlap", [0, 1, 5, 11])
@pytest.mark.parametrize("tokenizer", [data.ByteTokenizer(), "bpe"])
def test_bits_per_byte_count_every_token_once(overlap, tokenizer):
    """Compares with a loop over texts in numpy."""
    texts = ["", *make_texts(6, 3)]
    tokenizer = data.train_bpe(texts, 290) if tokenizer == "bpe" else tokenizer
    length, vocab_size = 12, tokenizer.vocab_size
    config = nn.Config(vocab_size=vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=8, positions=nn.Rope())
    model = nn.functionalize(nn.Decoder, config)
    params = jax.tree.map(lambda x: 2 * x, jax.jit(model.init)(jax.random.key(0)))
    packed = data.language_model_examples(texts, tokenizer, length, overlap=overlap)
    batches = data.Loader(packed, data.UniformBatchSampler(len(packed), 4))
    measure = bits.make_measure(make_loss(model, 1.0), train.Jit())
    nats, tokens = measure(params, batches)
    n_bytes = len("".join(texts).encode())

    apply = jax.jit(model.apply)
    expected, counted = 0.0, 0
    for text in filter(None, texts):
        ids = [1, *tokenizer.encode(text), 2]
        done = 0  # labels that are counted
        while done < len(ids) - 1:
            start = max(0, done - overlap)
            chunk = np.array(ids[start : start + length + 1])
            tokens_in = np.pad(chunk[:-1], (0, length + 1 - len(chunk)))  # one shape, one compilation
            log_p = np.asarray(jax.nn.log_softmax(apply(params, tokens_in)))
            counted_log_p = log_p[np.arange(len(chunk) - 1), chunk[1:]][done - start :]
            expected += -counted_log_p.sum(dtype=np.float64)
            counted += len(counted_log_p)
            done += len(counted_log_p)
    assert tokens == counted == sum(len(tokenizer.encode(text)) + 1 for text in texts if text)
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    np.testing.assert_allclose(bits.bits_per_byte(nats, n_bytes), expected / math.log(2) / n_bytes, rtol=1e-5)


def test_uniform_model_has_log2_of_the_vocabulary_per_token():
    text = "déjà vu"
    config = nn.Config(vocab_size=259, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    model = nn.functionalize(nn.Decoder, config)
    zeros = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0)))
    packed = data.language_model_examples([text], data.ByteTokenizer(), 4)
    n_bytes = len(text.encode())
    loss_fn = make_loss(model, bits.bits_per_byte(1.0, n_bytes) * packed.n_targets)
    _, metrics = jax.jit(loss_fn)(zeros, packed.take(np.arange(len(packed))), None)
    nats, tokens = bits.make_measure(loss_fn, train.Jit())(
        zeros, data.Loader(packed, data.UniformBatchSampler(len(packed), 2))
    )
    expected = (n_bytes + 1) * math.log2(259) / n_bytes
    assert tokens == n_bytes + 1
    assert bits.bits_per_byte(nats, n_bytes) == pytest.approx(expected, rel=1e-6)
    total, weight = metrics["bits_per_byte"]
    assert float(total / weight) == pytest.approx(expected, rel=1e-6)
    assert jax.jit(loss_fn)(zeros, packed.take(np.arange(1)), jax.random.key(0))[1] == {}


def test_xz_compresses_after_the_training_texts():
    rng = np.random.default_rng(0)
    noise = "".join(map(chr, rng.integers(32, 127, 3000)))
    assert bits.xz_bits_per_byte([noise, "x"], [noise]) < 0.2 < 6 < bits.xz_bits_per_byte(["x"], [noise])
    first, second = "".join(make_texts(9, 1)), make_texts(4, 2)

    def size(text):
        return len(lzma.compress(text.encode(), preset=9))

    expected = 8 * (size(first + "".join(second)) - size(first)) / len("".join(second).encode())
    assert bits.xz_bits_per_byte([first], second) == expected


def test_sample_texts_limits_the_bytes():
    texts = make_texts(50, 5)
    n = sum(len(text.encode()) for text in texts)
    assert corpus.sample_texts(texts, n) == texts
    drawn = corpus.sample_texts(texts, n // 3)
    assert drawn == corpus.sample_texts(texts, n // 3)
    assert set(drawn[:-1]) < set(texts) and any(text.startswith(drawn[-1]) for text in texts)
    assert n // 3 - 3 <= sum(len(text.encode()) for text in drawn) <= n // 3
    assert corpus.sample_texts(["猫猫"], 4) == ["猫"]


def test_tokenizer_is_made_once_and_loaded_again(tmp_path):
    made = make_tokenizer(tmp_path, "bpe", lambda: ["one two"] * 9, 265)
    loaded = make_tokenizer(tmp_path, "bpe", lambda: ["other text"], 265)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert loaded.encode("one two") == made.encode("one two") and len(made.encode("one two")) < 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source", "{}/none.jsonl"], "load: got .*none.jsonl' .*no file or directory"),
        (["--data.source", "{}/empty.jsonl"], "empty.jsonl: got an empty file"),
        (["--data.source", "{}/train.jsonl", "--data.column", "body"], "the columns 'text'; wanted 'body'"),
        (
            ["--data.source", "{}/train.jsonl", "--data.validation", "{}/none.txt"],
            "load: got .*none.txt' .*no file or directory",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.held-out", "0"],
            "got no texts for validation, and --data.held-out 0",
        ),
        (["--data.source", "some/texts"], "hub cannot be reached.*'stdlib'"),
        (
            ["--data.source", "{}/train.jsonl", "--model.vocab-size", "99"],
            "got token id 283 in row 0; wanted 0 <= .* < 99",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--data.vocab-size", "99"],
            "train_bpe: got --data.vocab-size 99; wanted at least 259",
        ),
        (
            ["--data.source", "{}/train.jsonl", "--sample.prompt", 40 * "the cat "],
            r"--sample.prompt: got \d+ tokens; wanted at least 1 and fewer than --data.length 32",
        ),
        (["--data.source", "{}/blank.jsonl"], "30 rows with 1 different inputs, which leave none for train"),
        (["--mesh.data", "3"], "got --train.batch-size 4; wanted a multiple of .*, 3"),
    ],
)
def test_unusable_settings_exit_with_one_message_and_leave_no_run(tmp_path, rows, arguments, message):
    (tmp_path / "empty.jsonl").touch()
    write_rows(tmp_path / "blank.jsonl", [""] * 30)
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=f"(?s)language_model: .*{message}"):
        main(["--out", str(out), *SMALL, *(text.format(tmp_path) for text in arguments)])
    assert not out.exists()


def test_command_line(capsys):
    config = command_line.parse(
        Config, ["--model.n-layers", "2", "--model.positions", "Alibi", "--data.tokenizer", "bytes"]
    )
    assert config.model.n_layers == 2 and config.model.positions == nn.Alibi()
    assert config.data == DataConfig(tokenizer="bytes")
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(SystemExit):
        command_line.parse(Config, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Language modelling with a decoder-only Transformer",
        "--model.n-layers INT",
        "The column of the texts. (default: text)",
        "--sample.temperature FLOAT",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data.overlap", "256"],
            "--data.overlap: got 256; wanted an integer from 0 to 255, less than --data.length 256",
        ),
        (["--data.validation-bytes", "0"], "--data.validation-bytes: got 0; wanted an integer from 1 to"),
        (["--sample.top-p", "0"], "--sample.top-p: got 0.0; wanted a number in (0, 1]"),
        (["--sample.tokens", "0"], "--sample.tokens: got 0; wanted an integer from 1 to"),
        (["--data.held-out", "-1"], "--data.held-out: got -1.0; wanted a number in [0, 1)"),
        (["--data.held-out", "nan"], "--data.held-out: got nan; wanted a number in [0, 1)"),
        (["--sample.temperature", "0"], "--sample.temperature: got 0.0; wanted a finite number above 0"),
    ],
)
def test_invalid_settings_exit_by_name(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command_line.parse(Config, arguments)
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_killed_and_resumed_run_ends_with_the_same_parameters(tmp_path, rows):
    uninterrupted, killed, steps = tmp_path / "uninterrupted", tmp_path / "killed", 20
    arguments = [
        *SMALL, "--data.source", rows, "--data.vocab-size", "300",
        "--model.dropout-rate", "0.1", "--train.steps", str(steps),
    ]  # fmt: skip
    main(["--out", str(uninterrupted), *arguments])
    left = kill_at(8, "experiments.language_model", *arguments, out=killed)
    assert 8 <= max(left) < steps and not (killed / "result.json").exists()
    main(["--out", str(killed), *arguments, "--resume"])
    chex.assert_trees_all_equal(*(train.load_params(out / "checkpoints") for out in (killed, uninterrupted)))
    assert result_of(killed)["bits_per_byte"] == result_of(uninterrupted)["bits_per_byte"]
