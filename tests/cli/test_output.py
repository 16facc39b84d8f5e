"""Output files of commands: checked before a model is loaded; links and devices stay."""

import json

import pytest

from tests.pretrained.tasks.test_text_classification import SEQUENCES, save


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("classifiers") / "texts", SEQUENCES)


def test_output_is_checked_before_a_model_is_loaded(tfm, tmp_path):
    for out, message in (
        (tmp_path / "no" / "labels", f"--out: got {tmp_path}/no/labels; wanted a file in a directory"),
        (tmp_path, f"--out: got {tmp_path}, a directory; wanted a file."),
    ):
        status, _, err = tfm("classify", "--model", "nowhere at all", "a", "--out", out)
        assert status == 2 and err.startswith(f"tfm: {message}") and len(err.splitlines()) == 1
    status, _, err = tfm("classify", "--model", "nowhere at all", "--file", tmp_path)
    assert (status, err) == (2, f"tfm: --file: got {tmp_path}, a directory; wanted a file.\n")


def test_devices_are_written_directly(tfm, model, tmp_path):
    """Through links, so that a failing test cannot replace a device."""
    for name in ("null", "full"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    argv = ["classify", "--model", model, "a", "--out"]
    assert tfm(*argv, tmp_path / "null")[0] == 0 and (tmp_path / "null").is_char_device()
    assert tfm(*argv, tmp_path / "full")[::2] == (2, f"tfm: {tmp_path}/full: No space left on device\n")


def test_the_target_of_a_link_is_replaced(tfm, model, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    assert tfm("classify", "--model", model, "a", "--out", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and len(
        [json.loads(line) for line in (tmp_path / "labels").read_text().splitlines()]
    ) == 1
