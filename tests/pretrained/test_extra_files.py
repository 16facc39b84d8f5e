"""Files of a checkpoint other than weights and configs: which are kept, and which are left to the caller."""

import json
from pathlib import Path

import pytest

from tfm_jax.pretrained.extra_files import find_other_files, is_tokenizer_file, read_extra_files, write_files

KEPT = ["tokenizer.json", "vocab.txt", "chat_template.jinja", "additional_chat_templates/tool.jinja"]
KEPT += ["preprocessor_config.json", "sentence_bert_config.json", "1_Pooling/config.json"]
OTHER_TEXTS = ["README.md", "notes/LICENSE.txt", "training_args.json"]
OTHERS = ["picture.png"]
IGNORED = ["model.safetensors", "1_Dense/pytorch_model.bin", "config.json", "model.safetensors.index.json"]
IGNORED += [".git/HEAD", "notes/.hidden"]


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with a file of each kind."""
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "/etc"}, {"path": 3}]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text("{}")
    files = {name: name.encode() for name in [*KEPT, *OTHER_TEXTS, *OTHERS, *IGNORED]}
    files["modules.json"] = json.dumps(modules).encode()
    write_files(tmp_path / "checkpoint", files)
    return tmp_path / "checkpoint", files


def test_kept_files(checkpoint):
    directory, files = checkpoint
    kept = read_extra_files(directory)
    assert kept == {name: files[name] for name in [*KEPT, "modules.json"]}


def test_other_files(checkpoint):
    directory, _ = checkpoint
    texts, others = find_other_files(directory, read_extra_files(directory))
    assert texts == sorted(Path(name) for name in OTHER_TEXTS) and others == OTHERS


def test_files_are_written_with_their_folders(checkpoint, tmp_path):
    directory, _ = checkpoint
    write_files(tmp_path / "copy", read_extra_files(directory))
    assert read_extra_files(tmp_path / "copy") == read_extra_files(directory)


def test_tokenizer_files():
    assert [name for name in KEPT if is_tokenizer_file(name)] == KEPT[:4]
