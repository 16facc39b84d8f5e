"""Lines of text: in order, however many are read at once; a bad one fails alone."""

import re

from tests.saved_runs import load_run_once
from tfm_jax.cli import _lines

TEXTS = ["abc", "fedcbafedcbafe", "d", "ee", "aaaaaa", "bd"]
BAD = b"abc\n\n\xff\xfe\nd\nab\xc3\n"


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def test_lines_stay_in_order_over_several_reads(tfm, translator, monkeypatch):
    monkeypatch.setattr(_lines, "BATCHES", 1)
    wanted = load_run_once(translator, average=None).translate(TEXTS)
    got = tfm("translate", translator, "--batch-size", 2, stdin=lines([*TEXTS, "", *TEXTS]).encode())
    assert got[:2] == (0, lines([*wanted, "", *wanted]))


def test_only_lines_that_are_not_utf8_fail(tfm, translator, tmp_path):
    wanted = load_run_once(translator, average=None).translate(["abc", "d"])
    (tmp_path / "file").write_bytes(BAD)
    for words, stdin in ((["--file", tmp_path / "file"], None), ([], BAD)):
        status, out, err = tfm("translate", translator, *words, stdin=stdin)
        assert (status, out) == (1, lines([wanted[0], "", "", wanted[1], ""]))
        messages = [line.partition(";")[0] for line in err.splitlines() if "line" in line]
        assert messages == [f"tfm: line {n}: got a text that is not UTF-8" for n in (3, 5)]


def test_only_a_prompt_that_is_too_long_fails(tfm, learned):
    texts = ["abcdefghabcdefgh", "abc"]
    status, out, err = tfm("generate", learned, "--tokens", 16, stdin=lines(texts).encode())
    assert status == 1 and out.startswith("\n") and len(out.splitlines()) == 2
    assert "tfm: line 1: TextGenerator: got 'abcdefghabcdefgh' of 17 tokens; wanted at most 9" in err
    status, out, err = tfm("generate", learned, "--tokens", 16, texts[0])
    assert (status, out) == (2, "") and "of 17 tokens; wanted at most 9" in err


def test_progress_bar_of_a_file_on_a_terminal(tfm, translator, tmp_path, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    (tmp_path / "file").write_bytes(BAD)
    _, out, err = tfm("translate", translator, "--file", tmp_path / "file")
    assert re.search("5/5\\S* lines", err) and "\x1b" not in out and len(out.splitlines()) == 5
