"""The tasks pair and tokens of experiments.classification, and the F1 score of entities."""

import json
import random

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line
from experiments.classification import corpus
from experiments.classification.baselines import frequent_tags_predict
from experiments.classification.config import Config, DataConfig
from experiments.classification.entities import are_entity_tags, entities, entity_f1
from experiments.classification.plan import plan
from experiments.classification.predict import predict_words
from experiments.classification.run import main, make_loss
from experiments.classification.tasks import TASKS, Labelled
from tests.experiments.test_classification import SMALL, result_of
from tests.experiments.test_init_from import save_checkpoint, without_model
from tests.pretrained.families.test_families import BERT
from tfm_jax import data, nn, runs

TAGGED = [("Ann", "B-PER"), ("Bo", "I-PER"), ("at", "O"), ("Acme", "B-ORG")]


def write_conll(path, n=40, seed=0):
    """Sentences of Ann Bo, at and Acme in any order, each with a number."""
    rng, sentences = random.Random(seed), []
    for i in range(n):
        parts = [TAGGED[:2], TAGGED[2:3], TAGGED[3:]]
        rng.shuffle(parts)
        words = [word for part in parts for word in part] + [(str(i), "O")]
        sentences.append("".join(f"{word}\t{tag}\n" for word, tag in words))
    path.write_text("-DOCSTART-\tO\n\n" + "\n".join(sentences))
    return path


def write_pairs(path, n=40):
    rows = [(f"{'xy'[i % 2]} {i}", f"{'xy'[i // 2 % 2]} {i}") for i in range(n)]
    lines = [f"{a},{b},{'same' if a == b else 'other'}" for a, b in rows]
    path.write_text("premise,hypothesis,label\n" + "\n".join(lines) + "\n")
    return path


PAIRS = ("--data.task", "pair", "--data.text-columns", "premise", "hypothesis")


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory):
    """A run of each task from scratch."""
    path = tmp_path_factory.mktemp("runs")
    source = write_conll(path / "a.conll")
    main(["--out", str(path / "tokens"), *SMALL, "--data.task", "tokens", "--data.source", str(source)])
    source = write_pairs(path / "pairs.csv")
    main(["--out", str(path / "pair"), *SMALL, *PAIRS, "--data.source", str(source)])
    return path


def test_a_run_of_tokens_says_what_its_use_needs(runs_of):
    out = runs_of / "tokens"
    assert runs.read_task(out) == runs.Task(
        task="token-classification", labels=("B-ORG", "B-PER", "I-PER", "O"), head_dropout_rate=0.1,
        max_length=128,
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/accuracy", "validation/entity_f1", "accuracy"} <= lines[1].keys()
    result = result_of(out)
    assert {"test_accuracy", "test_entity_f1", "test_sentences", "test_words"} < result.keys()
    # All words but the numbers are those of training, with one tag each.
    assert result["baseline_accuracy"] == result["baseline_entity_f1"] == 1.0
    model = runs.load_model(out)
    assert model.module is nn.Classifier and model.params["head"]["dense"]["kernel"].shape == (8, 4)


def test_a_run_of_pairs_says_what_its_use_needs(runs_of):
    assert runs.read_task(runs_of / "pair") == runs.Task(
        task="text-classification", labels=("other", "same"), pooling="mean", head_dropout_rate=0.1,
        max_length=128, pairs=True,
    )  # fmt: skip
    assert {"test_accuracy", "ngram_accuracy", "test_pairs"} < result_of(runs_of / "pair").keys()


@pytest.mark.slow
def test_a_run_of_tokens_resumes(runs_of, capsys):
    out, source = str(runs_of / "tokens"), str(runs_of / "a.conll")
    before = result_of(runs_of / "tokens")
    main(["--out", out, *SMALL, "--data.task", "tokens", "--data.source", source, "--resume"])
    after = result_of(runs_of / "tokens")
    names = before.keys() - {"seconds"}
    assert {name: before[name] for name in names} == {name: after[name] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pair", "tokens"])
def test_fine_tuning_of_a_bert(tmp_path, task):
    """With token types, which an encoder of pairs reads."""
    tokenizer = data.char_tokenizer(["".join(map(chr, range(48, 123))) + " -"])
    fields = BERT | {"positions": nn.Learned(40)}
    save_checkpoint(tmp_path / "bert", "BertModel", fields, tokenizer, pad_token_id=0)
    options = [*PAIRS, "--data.source", str(write_pairs(tmp_path / "a.csv"))]
    if task == "tokens":
        options = ["--data.task", task, "--data.source", str(write_conll(tmp_path / "a.conll"))]
    start = ["--init-from", str(tmp_path / "bert"), "--data.max-length", "40"]
    main(["--out", str(tmp_path / "run"), *without_model(SMALL), *options, *start])
    assert runs.load_model(tmp_path / "run").module is nn.Classifier
    assert runs.read_task(tmp_path / "run").pairs == (task == "pair")


def test_data_of_each_kind_are_the_same_sentences(tmp_path):
    sentences = [(["Ann", "at", "Acme", str(i)], ["B-PER", "O", "B-ORG", "O"]) for i in range(20)]
    lines = [f"{' '.join(words)}\t{' '.join(tags)}\n" for words, tags in sentences]
    (tmp_path / "a.tsv").write_text("tokens\ttags\n" + "".join(lines))
    (tmp_path / "a.csv").write_text("tokens,tags\n" + "".join(lines).replace("\t", ","))
    rows = [json.dumps({"tokens": words, "tags": tags}) + "\n" for words, tags in sentences]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    blocks = ["\n".join(map(" ".join, zip(*sentence, strict=True))) for sentence in sentences]
    (tmp_path / "a.txt").write_text("\n\n".join(blocks))
    found = [
        corpus.load_corpus(DataConfig(task="tokens", source=str(tmp_path / f"a.{kind}")))
        for kind in ("jsonl", "tsv", "csv", "txt")
    ]
    assert {str(one.class_names) for one in found} == {"['B-ORG', 'B-PER', 'O']"}
    for one in found:
        texts = [words for part in one.splits.values() for words in part.texts]
        assert sorted(texts) == sorted(words for words, _ in sentences)
        assert all(row.tolist() == [1, 2, 0, 2] for part in one.splits.values() for row in part.labels)


def test_a_table_of_conll_says_how_to_name_it(tmp_path):
    (tmp_path / "a.tsv").write_text("Ann\tB-PER\nat\tO\n")
    with pytest.raises(ValueError, match=r"wanted 'tokens', 'tags'.*a name that ends in .conll or .txt"):
        corpus.load_corpus(DataConfig(task="tokens", source=str(tmp_path / "a.tsv")))


def test_a_sentence_with_a_class_of_its_own_is_dropped(tmp_path):
    write_conll(tmp_path / "a.conll")
    (tmp_path / "test.conll").write_text("Ann\tB-PER\n\nRio\tB-LOC\nAnn\tB-PER\n")
    settings = {"task": "tokens", "source": str(tmp_path / "a.conll"), "test": str(tmp_path / "test.conll")}
    with pytest.raises(ValueError, match=r"'B-LOC' \(1 in test\)"):
        corpus.load_corpus(DataConfig(**settings))
    found = corpus.load_corpus(DataConfig(**settings, drop_missing_classes=True))
    assert found.splits["test"].texts == [["Ann"]]


@pytest.fixture(scope="module")
def tagger():
    """A random token classifier, its examples, and their words."""
    words = [["ab", "b"], ["a"], ["bb", "a", "ab"]]
    tokenizer = data.char_tokenizer(["ab "])
    config = nn.Config(vocab_size=tokenizer.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    model = nn.functionalize(nn.Classifier, config, 3, None)
    labels = [np.arange(len(row)) % 3 for row in words]
    examples = data.token_classification_examples(words, labels, tokenizer, 3, max_length=7)
    params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init)(jax.random.key(1)))
    return model, params, examples


def test_words_are_predicted_by_their_first_token(tagger):
    model, params, examples = tagger
    batches = data.Loader(examples, data.BucketBatchSampler(examples.lengths, [(8,)], 2))
    predicted = predict_words(model, params, batches, examples)
    assert predicted[2].tolist()[-1] == -1  # cut off: bos, "bb a a", eos
    for i, found in enumerate(predicted):
        batch = examples.take(np.array([i]), (8,))
        logits = np.asarray(model.apply(params, batch["tokens"], batch["valid"]))[0]
        kept = examples.positions[i][examples.positions[i] >= 0]
        assert found[: len(kept)].tolist() == logits.argmax(-1)[kept].tolist()


def test_loss_and_accuracy_are_those_of_first_tokens(tagger):
    model, params, examples = tagger
    batch = examples.take(np.arange(3), (8,))
    (total, weight), metrics = make_loss(model, 0.5)(params, batch, None)
    logits = np.asarray(model.apply(params, batch["tokens"], batch["valid"]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pairs = [(i, t, label) for i, row in enumerate(examples.positions)
             for t, label in zip(row, examples.labels[i], strict=True) if t >= 0]  # fmt: skip
    np.testing.assert_allclose(float(total), -sum(log_p[pair] for pair in pairs), rtol=1e-5)
    assert float(weight) == float(metrics["accuracy"][1]) == len(pairs) == 5
    correct = sum(int(logits[i, t].argmax() == label) for i, t, label in pairs)
    assert float(metrics["accuracy"][0]) == correct


def test_loss_of_pairs_reads_token_types():
    tokenizer = data.char_tokenizer(["ab "])
    config = nn.Config(
        vocab_size=tokenizer.vocab_size, d_model=8, n_layers=1, n_heads=2, d_ff=8, token_types=2
    )
    task, labelled = TASKS["pair"], Labelled([("a", "b"), ("b", "aa")], np.array([0, 1]))
    settings = Config(model=config, data=DataConfig(task="pair", source="a.csv"))
    batch = task.examples(labelled, tokenizer, 2, settings).take(np.arange(2))
    model = nn.functionalize(nn.Classifier, config, 2)
    params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init)(jax.random.key(0)))
    loss_fn = jax.jit(make_loss(model, 0.0))
    with_types = loss_fn(params, batch, None)[0][0]
    batch["token_types"] = np.zeros_like(batch["token_types"])
    assert float(loss_fn(params, batch, None)[0][0]) != pytest.approx(float(with_types))


def test_the_most_frequent_tag_of_a_word():
    training = [["a", "b"], ["a", "c"], ["a", "d"]]
    tags = [np.array([1, 0]), np.array([1, 0]), np.array([2, 0])]
    found = frequent_tags_predict(training, tags, [["d", "a", "new"], []])
    assert [row.tolist() for row in found] == [[0, 1, 0], []]


@pytest.mark.parametrize(("task", "arrays"), [("pair", {"token_types"}), ("tokens", set())])
def test_plan_of_a_task(task, arrays):
    model = nn.Config(d_model=8, n_layers=1, n_heads=2, d_ff=8, token_types=2)
    found = plan(Config(model=model, data=DataConfig(task=task, source="a.csv", max_length=12)))
    assert found.batch.keys() == {"tokens", "valid", "labels", "weights"} | arrays
    assert found.batch["labels"].shape == ((64, 12) if task == "tokens" else (64,))


def spans(tags):
    """The entities by their definition, over all spans."""
    prefixes = [tag[0] if "-" in tag else "O" for tag in tags]
    types = [tag[2:] if "-" in tag else None for tag in tags]

    def begins(i):
        follows = i > 0 and types[i - 1] == types[i] and prefixes[i - 1] in "BI"
        return types[i] is not None and (prefixes[i] in "BSU" or not follows)

    def ends(i):  # the last word of an entity
        after = i + 1 == len(tags) or types[i + 1] != types[i] or prefixes[i + 1] in "BSU"
        return prefixes[i] in "ELSU" or after

    return {
        (types[i], i, j + 1)
        for i in range(len(tags)) for j in range(i, len(tags))
        if begins(i) and ends(j) and len(set(types[i : j + 1])) == 1
        and not any(begins(k) for k in range(i + 1, j + 1)) and not any(ends(k) for k in range(i, j))
    }  # fmt: skip


TAGS = st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIESLU" for t in ("PER", "ORG"))]), max_size=8)


@given(TAGS)
def test_entities_are_all_spans_of_the_definition(tags):
    assert entities(tags) == spans(tags)


def test_entities_of_each_scheme():
    wanted = {("PER", 0, 2), ("ORG", 3, 4)}
    for tags in ("B-PER I-PER O B-ORG", "I-PER I-PER O I-ORG", "B-PER E-PER O S-ORG", "B-PER L-PER O U-ORG"):
        assert entities(tags.split()) == wanted
    assert entities(["B-A", "I-B", "B-B"]) == {("A", 0, 1), ("B", 1, 2), ("B", 2, 3)}
    assert (
        are_entity_tags(["O", "B-PER"]) and not are_entity_tags(["NOUN", "O"]) and not are_entity_tags(["O"])
    )


@given(
    st.lists(
        st.tuples(TAGS, TAGS).map(lambda pair: [tags[: min(map(len, pair))] for tags in pair]), max_size=4
    )
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs):
    gold, found = (
        [(i, *entity) for i, pair in enumerate(pairs) for entity in spans(pair[k])] for k in (0, 1)
    )
    right = len(set(gold) & set(found))
    got = entity_f1([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if not right:
        assert got == 0
    else:
        precision, recall = right / len(found), right / len(gold)
        assert got == pytest.approx(2 * precision * recall / (precision + recall))


def test_use_of_a_run_of_tokens_has_the_labels_of_its_training(runs_of):
    classifier, words = runs.load_run(runs_of / "tokens"), ["Acme", "at", "Ann", "Bo", "7"]
    tokenizer = data.load_tokenizer(runs_of / "tokens")
    labels = [np.zeros(len(words), np.int64)]
    examples = data.token_classification_examples([words], labels, tokenizer, 4, max_length=128)
    batch = examples.take(np.array([0]))
    logits = np.asarray(classifier.model.apply(classifier.params, batch["tokens"], batch["valid"]))[0]
    (found,) = classifier([" ".join(words)])
    starts = {token.start: token for token in found}
    for position, start in zip(examples.positions[0], (0, 5, 8, 12, 15), strict=True):
        token = starts[start]
        assert token.label == classifier.labels[int(logits[position].argmax())]
        scores = np.exp(logits[position]) / np.exp(logits[position]).sum()
        np.testing.assert_allclose(token.scores, scores, rtol=1e-4)


def test_use_of_a_run_of_pairs_has_the_scores_of_its_training(runs_of):
    classifier, pair = runs.load_run(runs_of / "pair"), ("x 3", "y 40")
    tokenizer = data.load_tokenizer(runs_of / "pair")
    examples = data.text_pair_classification_examples(
        [pair], np.zeros(1, np.int64), tokenizer, 2, max_length=128, token_types=False
    )
    batch = examples.take(np.array([0]))
    logits = np.asarray(classifier.model.apply(classifier.params, batch["tokens"], batch["valid"]))[0]
    (label,) = classifier([pair])
    np.testing.assert_allclose(label.scores, np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)


def test_defaults_fit_the_number_of_sentences(tmp_path, capsys):
    """Of a file of CoNLL, whose rows are no sentences."""
    for n, steps in ((30, 200), (300, 600), (3000, 1500)):
        source = str(write_conll(tmp_path / f"{n}.conll", n))
        config = command_line.parse(Config, ["--data.task", "tokens", "--data.source", source])
        assert config.train.steps == steps
        assert f"defaults for {n:,}"[:-1] in capsys.readouterr().err


def test_table_without_a_header(tmp_path):
    lines = write_pairs(tmp_path / "a.csv").read_text().splitlines(keepends=True)[1:]
    (tmp_path / "a.csv").write_text("".join(lines))
    settings = {"source": str(tmp_path / "a.csv"), "text_columns": ("a", "b")}
    found = corpus.load_corpus(DataConfig(task="pair", columns=("a", "b", "label"), **settings))
    assert sum(len(part.texts) for part in found.splits.values()) == 40
    with pytest.raises(ValueError, match=r"pass the names of the columns.*--data.columns"):
        corpus.load_corpus(DataConfig(task="pair", **settings))


def test_a_row_without_a_tag_for_each_token_is_named_by_its_number_in_the_file(tmp_path):
    rows = [{"tokens": ["a", str(i)], "tags": ["O", "B-X"]} for i in range(40)]
    rows[33]["tags"] = ["O"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="got 2 tokens and 1 tags in row 33; wanted a tag for each"):
        corpus.load_corpus(DataConfig(task="tokens", source=str(tmp_path / "a.jsonl")))
