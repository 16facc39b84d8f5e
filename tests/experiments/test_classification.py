import json
import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line, runner
from experiments.classification import corpus
from experiments.classification.baselines import ngram_predict
from experiments.classification.config import Config, DataConfig
from experiments.classification.predict import predict
from experiments.classification.run import main, make_loss
from tests.experiments.test_init_from import FROZEN, save_checkpoint, without_model
from tests.pretrained.families.test_families import BERT
from tfm_jax import data, nn, train
from tfm_jax.data.builtin import DATE_LOCALES, NAME_KINDS
from tfm_jax.values import from_dict, to_dict

SMALL = (
    "--model.d-model", "8", "--model.n-layers", "2", "--model.n-heads", "2", "--model.d-ff", "8",
    "--train.steps", "4", "--train.batch-size", "8", "--train.evaluate-every", "2",
    "--train.checkpoint-every", "2", "--train.optimizer.warmup", "2", "--train.log-every", "1",
    "--data.buckets", "1",
)  # fmt: skip
RUN_FILES = {
    "config.json", "model.json", "task.json", "tokenizer.json", "metrics.jsonl", "events", "checkpoints",
    "curves.png", "confusion.png", "result.json", "inputs.npz",
}  # fmt: skip
WORDS = {
    "animal": ["cat", "dog", "cow", "pig"],
    "fruit": ["pear", "apple", "fig", "plum"],
    "tool": ["saw", "axe"],
}


def write_texts(path, n, seed):
    """Writes texts that name two things of one class."""
    rng = np.random.default_rng(seed)
    rows = []
    for kind in rng.choice(list(WORDS), n):
        rows.append({"phrase": " ".join(rng.choice(WORDS[kind], 2)), "kind": str(kind)})
    if path.suffix == ".csv":
        path.write_text("phrase,kind\n" + "".join(f"{row['phrase']},{row['kind']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def source(tmp_path):
    return ["--data.source", write_texts(tmp_path / "train.csv", 60, 0), "--data.text-column", "phrase",
            "--data.label-column", "kind"]  # fmt: skip


def result_of(path):
    return json.loads((path / "result.json").read_text())


@pytest.mark.slow
def test_texts_from_the_command_line_to_the_confusion_matrix(tmp_path, source, capsys):
    out = tmp_path / "run"
    test = write_texts(tmp_path / "test.jsonl", 30, 1)
    arguments = ["--out", str(out), *SMALL, *source, "--data.test", test]
    main(arguments)
    assert {p.name for p in out.iterdir()} == RUN_FILES
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    result = result_of(out)
    assert result.keys() == {"test_accuracy", "ngram_accuracy", "test_texts", "seconds"}
    assert result["test_texts"] == 30 and result["ngram_accuracy"] > 0.9 and 0 <= result["test_accuracy"] <= 1
    printed = capsys.readouterr().out
    parts = re.search(r"texts: (\d+) train .*, (\d+) validation .*, 30 test \(33.3 %\); 3 classes", printed)
    assert sum(map(int, parts.groups())) == 60 and "classes: animal, fruit, tool" in printed
    assert f"n-grams     {round(30 * result['ngram_accuracy'])} of 30 test texts correct" in printed
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/loss", "validation/accuracy", "accuracy"} <= lines[1].keys()
    # resumed from the last checkpoint on other devices: the same metrics
    main([*arguments, "--resume", "--mesh.data", "2"])
    assert result_of(out)["test_accuracy"] == result["test_accuracy"]


@pytest.mark.slow
def test_fine_tuning_of_an_encoder_with_a_frozen_layer(tmp_path, source):
    path, out, again = tmp_path / "checkpoint", tmp_path / "run", tmp_path / "again"
    tokenizer = data.char_tokenizer(["".join(map(chr, range(97, 123))) + " "])
    params = save_checkpoint(
        path,
        "BertModel",
        BERT | {"pooler": nn.Pooler("tanh"), "positions": nn.Learned(20)},
        tokenizer,
        pad_token_id=0,
    )
    tuned = [
        "--train.optimizer.frozen-layers",
        "1",
        "--train.optimizer.layer-decay",
        "0.5",
        "--train.optimizer.weight-decay",
        "0.1",
    ]
    small = [*without_model(SMALL), *source]
    main(["--out", str(out), *small, *tuned, "--init-from", str(path)])
    found, encoder = train.load_params(out / "checkpoints"), params
    assert found["encoder"].keys() == encoder.keys() - {"pooler"} and found["head"]["dense"][
        "kernel"
    ].shape == (
        6,
        3,
    )
    for ours, theirs in zip(
        *(jax.tree.leaves(p["stack"]["layers"]) for p in (found["encoder"], encoder)), strict=True
    ):
        assert np.asarray(ours[:1]).tobytes() == np.asarray(theirs[:1]).tobytes()
        assert (ours[1:] != theirs[1:]).any()
    chex.assert_trees_all_equal(found["encoder"]["embedding"], encoder["embedding"])
    # its run is a source of initial weights too
    main(["--out", str(again), *small, *FROZEN, "--init-from", str(out)])
    chex.assert_trees_all_close(
        train.load_params(again / "checkpoints")["encoder"], found["encoder"], atol=1e-12
    )


def test_integer_labels_of_a_table_with_another_separator(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text|label\n" + "".join(f"größe {i}|{1 + i % 5}\n" for i in range(50)), "latin-1"
    )
    config = DataConfig(source=str(tmp_path / "a.csv"), separator="|", encoding="latin-1")
    found = corpus.load_corpus(config)
    assert found.class_names == ["1", "2", "3", "4", "5"]
    for texts, labels in found.splits.values():
        assert [int(text.split()[1]) % 5 for text in texts] == labels.tolist()


def test_class_of_held_out_texts_only_is_an_error_or_dropped(tmp_path, capsys):
    rows = [{"text": f"text {i}", "label": "rare" if i == 0 else "ab"[i % 2]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = set()
    for salt in "abcdefgh":
        settings = {"source": str(tmp_path / "a.jsonl"), "held_out": 0.3, "held_out_salt": salt}
        try:
            loaded = corpus.load_corpus(DataConfig(**settings))
            assert loaded.class_names == ["a", "b", "rare"] and 2 in loaded.splits["train"].labels
            assert "classes that only training examples have: 'rare' (1 in train)" in capsys.readouterr().out
            continue
        except ValueError as error:
            split = re.search(r"without a training example: 'rare' \(1 in (\w+)\); wanted", str(error))[1]
        found.add(split)
        resumed = corpus.load_corpus(DataConfig(**settings), resumes=True)  # an older version began so
        assert resumed.class_names == ["a", "b", "rare"] and 2 in resumed.splits[split].labels
        loaded = corpus.load_corpus(DataConfig(**settings, drop_missing_classes=True))
        assert loaded.class_names == ["a", "b"]
        assert len(loaded.splits[split].texts) == len(resumed.splits[split].texts) - 1
        assert f" {split} examples of missing classes: 'rare'" in capsys.readouterr().out
    assert found == {"validation", "test"}


def test_default_source_needs_no_file():
    pytest.importorskip("babel")
    found = corpus.load_corpus(DataConfig())
    assert tuple(found.class_names) == DATE_LOCALES
    kinds = corpus.load_corpus(DataConfig(label_column="kind"))
    assert tuple(kinds.class_names) == NAME_KINDS and kinds.splits["test"].texts == found.splits["test"].texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source", "{}/none.jsonl"], "load: got .*none.jsonl' .*no file or directory"),
        (["--data.task", "tokens"], "got 2 tokens and 1 tags in row 0; wanted a tag for each"),
        (["--data.text-column", "text"], "the columns 'phrase', 'kind'; wanted 'text'"),
        (["--data.label-column", "label"], "the columns 'phrase', 'kind'; wanted 'label'"),
        (["--data.held-out", "0"], "got no texts for test and validation, and --data.held-out 0"),
        (["--data.source", "{}/one.jsonl"], "got training examples of one class, 'tool'; wanted two"),
        (
            ["--data.test", "{}/other.jsonl"],
            r"got classes without a training example: 'bird' \(1 in test\); wanted .*--data.drop-missing",
        ),
        (["--data.source", "{}/empty.jsonl"], "texts: got nothing in row 1 of column 'phrase'; wanted"),
        (["--model.positions", "Learned(max_length=5)"], "wanted at most max_length=5"),
        (["--model.pooler", "Pooler"], "got --pooling mean with Pooler.*; wanted --pooling first"),
        (["--mesh.data", "3"], "got --train.batch-size 8; wanted a multiple of .*, 3"),
    ],
)  # fmt: skip
def test_unusable_settings_exit_with_one_message_and_leave_no_run(tmp_path, source, arguments, message):
    def write(name, rows):
        return (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("other.jsonl", [{"phrase": "saw", "kind": "tool"}, {"phrase": "owl", "kind": "bird"}])
    write("one.jsonl", [{"phrase": f"saw {i}", "kind": "tool"} for i in range(30)])
    write(
        "empty.jsonl",
        [{"phrase": None if i % 3 else f"saw {i}", "kind": "ab"[i % 2]} for i in range(30)],
    )
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=f"(?s)classification: .*{message}"):
        main(["--out", str(out), *SMALL, *source, *(text.format(tmp_path) for text in arguments)])
    assert not out.exists()


@pytest.mark.parametrize("package", ["sklearn", "matplotlib", "tensorboardX"])
def test_packages_are_imported_before_a_second_thread(tmp_path, source, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(runner.Run, "compile_step", None)
    with pytest.raises(
        SystemExit, match=rf"got no {package}; wanted it for this experiment. pip install 'tfm_jax\[experim"
    ):
        main(["--out", str(tmp_path / "run"), *SMALL, *source])


@pytest.fixture(scope="module")
def classifier():
    texts = ["ab", "b", "abba", "ba", "aaab", "bb", ""]
    tokenizer = data.char_tokenizer(texts)
    config = nn.Config(vocab_size=tokenizer.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    model = nn.functionalize(nn.Classifier, config, 3)
    examples = data.text_classification_examples(
        texts, np.array([0, 1, 2, 0, 1, 2, 0]), tokenizer, 3, max_length=9
    )
    params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init)(jax.random.key(1)))
    batch = examples.take(np.arange(len(examples)), (9,))
    logits = jax.jit(model.apply)(params, batch["tokens"], batch["valid"])
    params["head"]["dense"]["bias"] = -logits.mean(0)  # so that predictions depend on the texts
    return model, params, examples


def test_predictions_equal_those_of_each_text_alone_in_order(classifier):
    model, params, examples = classifier
    apply = jax.jit(model.apply)
    alone = [examples.take(np.array([i]), (9,)) for i in range(len(examples))]
    wanted = [int(jnp.argmax(apply(params, batch["tokens"], batch["valid"]))) for batch in alone]
    batches = data.Loader(examples, data.BucketBatchSampler(examples.lengths, [(4,), (9,)], 3))
    assert predict(model, params, batches, len(examples)).tolist() == wanted and len(set(wanted)) > 1


def test_loss_ignores_padding_and_smooths_in_training_only(classifier):
    model, params, examples = classifier
    loss_fn = jax.jit(make_loss(model, 0.5))
    batch = examples.take(np.arange(5), (9,))
    (total, weight), metrics = loss_fn(
        params, {**batch, "weights": np.array([1, 1, 0, 1, 0], np.float32)}, None
    )
    kept = np.array([0, 1, 3])
    logits = np.asarray(jax.jit(model.apply)(params, batch["tokens"], batch["valid"]))[kept]
    log_p = np.asarray(jax.nn.log_softmax(logits))[np.arange(3), batch["labels"][kept]]
    np.testing.assert_allclose(total, -log_p.sum(), rtol=1e-5)
    assert float(weight) == 3 == float(metrics["accuracy"][1])
    assert float(metrics["accuracy"][0]) == (logits.argmax(-1) == batch["labels"][kept]).sum()
    (smoothed, _), _ = loss_fn(params, batch, jax.random.key(0))
    (plain, _), _ = loss_fn(params, batch, None)
    assert abs(float(smoothed - plain)) > 0.1


def test_ngrams_separate_two_classes():
    texts = ["cat", "cow", "catcow", "xyz", "yzx", "zzx"]
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert ngram_predict(texts, labels, ["owcat", "zyx"]).tolist() == [0, 1]


def test_command_line(capsys):
    config = command_line.parse(
        Config, ["--data.label-column", "kind", "--train.optimizer.frozen-layers", "2", "--pooling", "first"]
    )
    assert config.data.label == "kind" and config.train.optimizer.frozen_layers == 2
    assert DataConfig().label == "language" and DataConfig(source="x.csv").label == "label"
    assert DataConfig(source="places").label == "continent"
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    for argument, message in {
        "--data.max-length=2": "--data.max-length: got 2; wanted an integer from 3 to",
        "--data.task=pair": "--data.task: got pair with the source 'names', which has texts alone; wanted",
        "--data.task=pair --data.source=a.csv --data.text-column=b": "--data.text-column: got one for pairs",
        "--data.text-columns a b": "--data.text-columns: got two names for the task text; wanted",
        "--data.task=tokens --data.source=a.csv --pooling=mean": "--pooling: got mean for --data.task tokens",
    }.items():
        with pytest.raises(SystemExit):
            command_line.parse(Config, argument.split())
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
