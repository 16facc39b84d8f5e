"""``tfm translate``: the library's translations, whatever the source of the texts and the batch size."""

from tests.saved_runs import load_run_once
from tfm_jax import data

TEXTS = ["abc", "fedcbafedcbafe", "d", "ee", "aaaaaa", "bd"]


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def test_arguments_files_and_standard_input_in_order(tfm, translator, tmp_path):
    wanted = load_run_once(translator, average=None).translate(TEXTS)
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


def test_options_of_beam_search(tfm, translator):
    options = {"beams": 1, "length_penalty": 0.0, "max_length": 3}
    wanted = load_run_once(translator, average=None).translate(TEXTS[:1], **options)
    words = ["--beams", 1, "--length-penalty", 0, "--max-length", 3]
    assert tfm("translate", translator, TEXTS[0], *words)[:2] == (0, lines(wanted))
    assert len(data.char_tokenizer("abcdefgh").encode(wanted[0])) <= 3
