"""Two aligned text files, and tables without a header, as data of experiments.translation."""

import json
import re

import pytest

from experiments.translation import corpus
from experiments.translation.config import DataConfig
from experiments.translation.run import main
from tests.experiments.test_translation import NUMBERS, SMALL
from tfm_jax import runs


def write_sides(path, pairs, name="train"):
    """Writes a file of each language; returns their names, source first."""
    for language, side in zip(("en", "fr"), zip(*pairs, strict=True), strict=True):
        (path / f"{name}.{language}").write_text("".join(f"{text}\n" for text in side))
    return str(path / f"{name}.en"), str(path / f"{name}.fr")


def numbers(start, end):
    """Pairs of numbers in base 6, digit by digit."""
    digits = list(NUMBERS.items())
    for number in range(start, end):
        words = [digits[number // 6**place % 6] for place in range(5)]
        yield tuple(map(" ".join, zip(*words, strict=True)))


def merged(splits):
    return sorted(pair for sides in splits.values() for pair in zip(*sides, strict=True))


def test_two_files_are_pairs_without_those_that_have_an_empty_side(tmp_path, capsys):
    pairs = [(f"a{i}", f"b{i}") for i in range(40)]
    source = write_sides(tmp_path, [*pairs[:20], ("", "b"), ("a", " "), ("", ""), *pairs[20:]])
    found = corpus.load_pairs(DataConfig(source=source, held_out=0.1))
    assert merged(found) == sorted(pairs) and all(len(sides[0]) for sides in found.values())
    dropped = r"dropped 3 of 43 pairs, which have an empty line: 2 in .*train\.en and 2 in .*train\.fr"
    assert re.search(dropped, capsys.readouterr().out)
    assert corpus.languages(DataConfig(source=source)) == ("en", "fr")
    with pytest.raises(ValueError, match="an empty side in all of 2 pairs"):
        corpus.load_pairs(DataConfig(source=write_sides(tmp_path, [("", "b"), ("a", "")], "none")))


def test_validation_and_test_are_files_of_their_own(tmp_path):
    train, dev, test = (
        write_sides(tmp_path, [(f"{name} {i}", str(i)) for i in range(5)], name)
        for name in ("train", "dev", "test")
    )
    found = corpus.load_pairs(DataConfig(source=train, validation=dev, test=test))
    assert {name: sides[0][0] for name, sides in found.items()} == {
        "train": "train 0", "validation": "dev 0", "test": "test 0"
    }  # fmt: skip
    (tmp_path / "test.tsv").write_text("one\tun\n")
    found = corpus.load_pairs(
        DataConfig(source=train, validation=dev, test=str(tmp_path / "test.tsv"), columns=("en", "fr"))
    )
    assert found["test"] == (["one"], ["un"])


@pytest.mark.parametrize("option", ["source", "validation", "test"])
def test_files_in_another_order_than_the_languages_are_an_error(tmp_path, option):
    sides = {name: write_sides(tmp_path, [("a", "b")] * 9, name) for name in ("source", "validation", "test")}
    sides[option] = sides[option][::-1]
    message = rf"got --data.{option} .*\.fr .*\.en for texts of en .* into fr; wanted the source texts first"
    with pytest.raises(ValueError, match=message):
        corpus.load_pairs(DataConfig(pair="en-fr", **sides))
    if option != "source":  # the suffixes of the training files name the languages
        with pytest.raises(ValueError, match=message):
            corpus.load_pairs(DataConfig(**sides))


def test_names_of_the_columns_of_a_table_without_a_header(tmp_path):
    pairs = [(f"a{i}", f"b{i}") for i in range(40)]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    source = str(tmp_path / "a.tsv")
    assert merged(corpus.load_pairs(DataConfig(source=source, columns=("en", "fr")))) == sorted(pairs)
    assert corpus.languages(DataConfig(source=source, columns=("en", "fr"))) == ("en", "fr")
    for options in ({"pair": "fr-en", "columns": ("en", "fr")}, {"columns": ("target", "source")}):
        found = corpus.load_pairs(DataConfig(source=source, **options))
        assert merged(found) == sorted([(b, a) for a, b in pairs])
    with pytest.raises(ValueError, match=r"--data.columns"):
        corpus.load_pairs(DataConfig(source=source, pair="en-fr"))


@pytest.mark.slow
def test_two_files_to_a_translator_that_goes_on_with_more_data(tmp_path, capsys):
    """The circle: 5,000 pairs, a run, its use, a longer run, and one with more pairs and an unseen test."""
    options = [*SMALL, "--data.vocab-size", "300", "--data.batch-tokens", "512", "--search.beams", "1"]
    source, out = write_sides(tmp_path, numbers(0, 5000)), tmp_path / "run"
    main(["--out", str(out), *options, "--data.source", *source])
    first = json.loads((out / "result.json").read_text())
    assert {"bleu", "chrf"} < first.keys()
    assert len(runs.load_run(out).translate(["one two", "six"])) == 2
    main(["--out", str(out), "--resume", "--train.steps", "8"])
    assert {"result.json", "result-4.json"} < {path.name for path in out.iterdir()}
    capsys.readouterr()
    more = write_sides(tmp_path, reversed(list(numbers(0, 6000))), "more")
    started = [word for word in options if word not in ("--data.vocab-size", "300")]
    started = started[started.index("--train.steps") :]
    main(["--out", str(tmp_path / "more"), *started, "--data.source", *more, "--init-from", str(out)])
    printed = capsys.readouterr().out
    assert "it was trained on 0 of " in printed
