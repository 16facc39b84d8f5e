"""What runs leave is never the data of the next, wherever it lies in the source."""

from pathlib import Path

from experiments import runner
from experiments.classification.config import Config, DataConfig
from experiments.classification.corpus import load_corpus
from tests.experiments import test_classification, test_images, test_language_model, test_translation
from tfm_jax.data import _local as local


def test_every_file_of_a_run_is_known():
    modules = (test_classification, test_images, test_language_model, test_translation)
    left = set().union(*(module.OF_A_RUN for module in modules))
    left |= {"special_tokens_map.json", "set_aside"}  # of --init-from, of --resume-step
    assert all(name in local._RUN_FILES or local._RUN_DIRECTORY.fullmatch(name) for name in left)


def test_a_run_in_its_own_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_classification.write_texts(Path("texts.jsonl"), 60, 0)
    config = DataConfig(source=".", text_column="said", label_column="kind")
    texts = lambda: {name: part.texts for name, part in load_corpus(config).splits.items()}
    before = texts()
    for out in ("runs/x", "y"):
        directory = runner.Run(Config(data=config, out=Path(out)), "classification").path
        (directory / "tokenizer.json").write_text("{}")
        assert texts() == before
        assert local.find_files(".").files == {"train": [Path("texts.jsonl")]}
