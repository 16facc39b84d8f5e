"""``tfm embed``: the library's embeddings, in order, whatever the source of the texts and the batch size."""

import json
import os

import numpy as np
import pytest

from tests.pretrained.tasks.test_sentence_embedding import TEXTS, as_pickle, directory  # noqa: F401  - a fixture
from tfm_jax import pretrained, runs

BAD = b"a b c\n\xff\xfe\n\nd\n"


@pytest.fixture
def wanted(directory):  # noqa: F811
    return pretrained.load_sentence_encoder(directory)([*TEXTS, ""])


def read(out):
    return [json.loads(line) for line in out.splitlines()]


def test_arguments_files_and_standard_input(tfm, directory, wanted, tmp_path):  # noqa: F811
    status, out, _ = tfm("embed", "--model", directory, *TEXTS)
    assert status == 0
    np.testing.assert_array_equal(np.array(read(out), np.float32), wanted[:4])
    text = "\n".join(TEXTS)
    (tmp_path / "file").write_text(text)
    for size in (1, 2, 100):
        for words, stdin in ((["--file", tmp_path / "file"], None), ([], text.encode())):
            name = tmp_path / f"{size}.npy"
            argv = ["--model", directory, "--batch-size", size, "--out", name, *words]
            assert tfm("embed", *argv, stdin=stdin)[:2] == (0, "")
            got = np.load(name)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted[:4], rtol=1e-6, atol=1e-6)
    assert not list(tmp_path.glob("*.part"))


def test_the_encoder_of_a_run_that_classifies(tfm, run_of_pairs):
    wanted = runs.load_sentence_encoder(run_of_pairs)(["ab", "cd ef g"])
    status, out, _ = tfm("embed", run_of_pairs, "ab", "cd ef g")
    assert status == 0
    np.testing.assert_allclose(read(out), wanted, rtol=1e-6, atol=1e-6)


def test_batches_are_split_over_devices(tfm, directory, wanted, monkeypatch):  # noqa: F811
    load, meshes = runs.load_sentence_encoder, []

    def spy(path, *, mesh, **options):
        meshes.append(mesh)
        return load(path, mesh=mesh, **options)

    monkeypatch.setattr(runs, "load_sentence_encoder", spy)
    status, out, _ = tfm("embed", "--model", directory, "--devices", 3, *TEXTS)
    assert status == 0 and meshes[0].size == 3
    np.testing.assert_allclose(read(out), wanted[:4], rtol=1e-5, atol=1e-6)


def test_lines_stay_in_order_over_several_reads(tfm, directory, wanted, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tfm_jax.cli._lines.BATCHES", 1)
    stdin = "".join(f"{text}\n" for text in TEXTS * 5).encode()
    name = tmp_path / "out.npy"
    assert tfm("embed", "--model", directory, "--batch-size", 3, "--out", name, stdin=stdin)[0] == 0
    np.testing.assert_allclose(np.load(name), np.tile(wanted[:4], (5, 1)), rtol=1e-6, atol=1e-6)


def test_only_lines_that_are_not_utf8_fail(tfm, directory, wanted, tmp_path):  # noqa: F811
    (tmp_path / "file").write_bytes(BAD)
    good = [wanted[0], wanted[4], wanted[1]]
    for words, stdin in ((["--file", tmp_path / "file"], None), ([], BAD)):
        status, out, err = tfm("embed", "--model", directory, *words, stdin=stdin)
        first, bad, *rest = read(out)
        assert (status, bad) == (1, None) and err.startswith("tfm: line 2: got a text that is not UTF-8")
        np.testing.assert_allclose([first, *rest], good, rtol=1e-6, atol=1e-6)
    status, _, _ = tfm("embed", "--model", directory, "--out", tmp_path / "o.npy", stdin=b"\xff\n" + BAD)
    got = np.load(tmp_path / "o.npy")
    assert status == 1 and np.isnan(got[[0, 2]]).all()
    np.testing.assert_allclose(got[[1, 3, 4]], good, rtol=1e-6, atol=1e-6)


def test_no_lines_give_no_vectors(tfm, directory, tmp_path):  # noqa: F811
    assert tfm("embed", "--model", directory, stdin=b"")[:2] == (0, "")
    assert tfm("embed", "--model", directory, "--out", tmp_path / "o.npy", stdin=b"")[0] == 0
    assert np.load(tmp_path / "o.npy").shape == (0, 6)


def test_jsonl_output(tfm, directory, wanted, tmp_path):  # noqa: F811
    name = tmp_path / "out.jsonl"
    assert tfm("embed", "--model", directory, "--out", name, *TEXTS)[:2] == (0, "")
    np.testing.assert_array_equal(np.array(read(name.read_text()), np.float32), wanted[:4])


def test_output_may_replace_the_input_file(tfm, directory, wanted, tmp_path):  # noqa: F811
    name = tmp_path / "texts.jsonl"
    name.write_text("\n".join(TEXTS))
    assert tfm("embed", "--model", directory, "--file", name, "--out", name)[:2] == (0, "")
    np.testing.assert_array_equal(np.array(read(name.read_text()), np.float32), wanted[:4])
    assert not list(tmp_path.glob("*.part"))


def test_progress_bar_of_a_file_on_a_terminal(tfm, directory, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    (tmp_path / "file").write_text("\n".join(TEXTS))
    _, out, err = tfm("embed", "--model", directory, "--file", tmp_path / "file")
    assert "4/4" in err and len(read(out)) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "NOWHERE", "a"], "got NOWHERE; wanted an existing directory"),
        (["--model", "EMPTY", "a"], "EMPTY: got no config.json; wanted one"),
        (
            ["--model", "MODEL", "a", "--out", "x.csv"],
            "--out: got x.csv; wanted a name that ends in .npy or .jsonl.",
        ),
        (
            ["--model", "MODEL", "a", "--file", "b"],
            "--file: got inputs as arguments too; wanted only one of the two.",
        ),
        (["--model", "MODEL", "a", "--batch-size", "0"], "--batch-size: got 0; wanted an integer"),
        (["--model", "MODEL", "a", "--devices", "0"], "--devices: got 0; wanted an integer"),
        (
            ["--model", "MODEL", "a", "--devices", "9"],
            "9 devices; wanted 1 to 8, the cpu devices",
        ),
        (
            ["--model", "MODEL", "a", "--devices", "33"],
            "--devices: got 33; wanted at most --batch-size, 32.",
        ),
        (["--model", "MODEL", "a", "--out", "NOWHERE/x.npy"], "wanted a file in a directory that exists"),
    ],
)
def test_errors_are_one_line(argv, message, tfm, directory, tmp_path):  # noqa: F811
    (tmp_path / "empty").mkdir()
    places = {"MODEL": directory, "EMPTY": tmp_path / "empty", "NOWHERE": tmp_path / "nowhere" / "at" / "all"}
    for name, path in places.items():
        message = message.replace(name, str(path))
        argv = [word.replace(name, str(path)) for word in argv]
    status, out, err = tfm("embed", *argv)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_nan_and_inf_are_null_in_jsonl(tfm, directory, monkeypatch):  # noqa: F811
    def broken(texts, batch_size):
        return np.array([[0.5, np.nan, np.inf]], np.float32)

    broken.width = 3
    monkeypatch.setattr(runs, "load_sentence_encoder", lambda *args, **options: broken)
    assert tfm("embed", directory, "text")[1] == "[0.5, null, null]\n"


def test_npy_needs_a_regular_file_in_an_existing_directory(tfm, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for out, message in (
        (tmp_path / "pipe.npy", "not a regular file; wanted one for .npy."),
        (tmp_path / "no" / "a.npy", "wanted a file in a directory that exists"),
    ):
        status, _, err = tfm("embed", "--model", "nowhere at all", "text", "--out", out)
        assert (
            status == 2 and err.startswith("tfm: --out: ") and message in err and len(err.splitlines()) == 1
        )


@pytest.mark.parity
def test_a_pickled_checkpoint_needs_allow_pickle(tfm, directory, wanted):  # noqa: F811
    as_pickle(directory)
    status, out, err = tfm("embed", "--model", directory, *TEXTS)
    assert (status, out) == (2, "") and "--allow-pickle" in err
    status, out, _ = tfm("embed", "--model", directory, "--allow-pickle", *TEXTS)
    assert status == 0
    np.testing.assert_array_equal(np.array(read(out), np.float32), wanted[:4])
