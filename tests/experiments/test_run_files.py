"""Files of a run are never read as data, wherever it is in the source."""

from pathlib import Path

from experiments import runner
from experiments.classification.config import Config, DataConfig
from experiments.classification.corpus import load_corpus
from tests.experiments import test_classification, test_images, test_language_model, test_translation
from tfm_jax.data import _local
from tfm_jax.train.run_directory import SWEEP_FILE


def test_every_file_of_a_run_is_excluded_from_data():
    modules = (test_classification, test_images, test_language_model, test_translation)
    files = set().union(*(module.RUN_FILES for module in modules))
    files |= {"special_tokens_map.json", "start_inputs.npz"}  # of --init-from
    files |= {"set_aside", "result-20.json"}  # of --resume-step, of more --train.steps
    files |= {"profile"}  # of --profile
    assert _local._SWEEP_FILE == SWEEP_FILE
    assert all(_local._is_run_file(name) or _local._RUN_DIRECTORY.fullmatch(name) for name in files)


def test_run_inside_its_source_does_not_change_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_classification.write_texts(Path("texts.jsonl"), 60, 0)
    config = DataConfig(source=".", text_column="phrase", label_column="kind")

    def texts():
        return {name: part.texts for name, part in load_corpus(config).splits.items()}

    before = texts()
    for out in ("runs/x", "y"):
        directory = runner.Run(Config(data=config, out=Path(out)), "classification").path
        (directory / "tokenizer.json").write_text("{}")
        assert texts() == before
        assert _local.find_files(".").files == {"train": [Path("texts.jsonl")]}
