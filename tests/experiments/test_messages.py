"""Errors in the words of the command line."""

import dataclasses

import pytest

from experiments.classification.config import Config as ClassificationConfig
from experiments.config import MeshConfig, OptimizerConfig, TrainConfig
from experiments.images.config import Config as ImagesConfig
from experiments.language_model.config import Config as LanguageModelConfig
from experiments.messages import exit_on_error, in_options
from experiments.translation.config import Config as TranslationConfig
from experiments.translation.config import DataConfig
from tests.experiments.options import python_names
from tfm_jax import data, nn, train

TRANSLATION = TranslationConfig(
    data=DataConfig(max_length=2, held_out=0.6),
    model=nn.Config(d_model=6, n_heads=3),
    train=TrainConfig(optimizer=OptimizerConfig(warmup=9)),
    mesh=MeshConfig(data=3, tensor=5),
)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("f: got pair='en'; wanted a pair.", "f: got --data.pair en; wanted a pair."),
        ("got separator=';', encoding='utf-8'", "got --data.separator ';', --data.encoding utf-8"),
        ("Pass it: separator='\\t' (--data.separator '\\t').", "Pass it: --data.separator '\\t'."),
        ("Pass splits='none' (--data.splits none of an experiment), or", "Pass --data.splits none, or"),
        ("pass names=[...] (--data.columns en fr).", "pass --data.columns en fr."),
        (
            "wanted 2 as in names=('x y', 'z') (--data.columns 'x y' z)",
            "wanted 2 as in --data.columns 'x y' z",
        ),
        ("got names=('a', 'b') for", "got --data.columns a b for"),
        ("Choose with pair='...-...'.", "Choose with --data.pair ...-...."),
        ("got train.batch_size=8; wanted", "got --train.batch-size 8; wanted"),
        ("(max_length=2); wanted", "(--data.max-length 2); wanted"),
        ("wanted at most max_length=30. Raise it.", "wanted at most max_length=30. Raise it."),
        ("got size=(3, 4), steps=[4, 4], average=1", "got size=(3, 4), steps=[4, 4], --average 1"),
        ("got validation=0.6 and test=0.6;", "got --data.held-out 0.6 and --data.held-out 0.6;"),
        ("got warmup=9, d_model=6.", "got --train.optimizer.warmup 9, --model.d-model 6."),
        ("got rank=3 and 'x=1' in a.b=2, Rope(theta=1e6)", "got rank=3 and 'x=1' in a.b=2, Rope(theta=1e6)"),
        ("--sweep train.seed=1 2", "--sweep train.seed=1 2"),
        ("no arguments", "no arguments"),
    ],
)
def test_arguments_become_options(message, wanted):
    assert in_options(message, TRANSLATION) == wanted


@pytest.mark.parametrize(
    ("config", "message", "wanted"),
    [
        (ClassificationConfig(), "Choose with column='...'.", "Choose with --data.text-column ...."),
        (ClassificationConfig(), "Choose with label='...'.", "Choose with --data.label-column ...."),
        (ImagesConfig(), "image='...' and label='...'", "--data.image ... and --data.label ..."),
        (
            LanguageModelConfig(),
            "got overlap=128 with length=256",
            "got --data.overlap 128 with --data.length 256",
        ),
        (LanguageModelConfig(), "Choose with column='...'", "Choose with --data.column ..."),
    ],
)
def test_each_experiment_has_its_options(config, message, wanted):
    assert in_options(message, config) == wanted


FILES = {
    "train.jsonl": '{"translation": {"en": "a", "fr": "b"}}\n' * 3,
    "semicolons.csv": "en;fr\na;b\n",
    "pairs.tsv": "one\tun\ntwo\tdeux\n",
    "twice.tsv": "one\tone\ntwo\tdeux\n",
    "long.tsv": "en\tfr\na\tb\tc\n",
    "latin.tsv": b"en\tfr\n\xe9\tb\n",
    "a.en": "a\n",
    "a.fr": "a\nb\n",
    "d/train.jsonl": '{"a": 1}\n',
    "d/x/train_test.jsonl": '{"a": 1}\n',
    "test_only/test.jsonl": '{"a": 1}\n',
}


@pytest.mark.parametrize(
    ("function", "arguments", "options", "wanted"),
    [
        ("load", ["none.jsonl"], {}, "no file or directory"),
        ("pairs", ["train.jsonl"], {"pair": "en"}, "got --data.pair en; "),
        ("pairs", ["train.jsonl"], {"pair": "en-de"}, "Choose with --data.pair ...-..."),
        ("pairs", ["train.jsonl"], {}, "Choose with --data.pair en-fr."),
        ("pairs", ["pairs.tsv"], {"pair": "en-fr"}, "--data.columns en fr."),
        ("pairs", ["semicolons.csv"], {"pair": "en-fr"}, "Or pass its separator: --data.separator ';'."),
        ("load", ["twice.tsv"], {}, "--data.columns NAME ...."),
        ("load", ["long.tsv"], {}, "got 3 fields; wanted 2"),
        ("load", ["latin.tsv"], {}, "Pass it, such as --data.encoding latin-1."),
        ("load", ["pairs.tsv"], {"encoding": "x"}, "got --data.encoding x "),
        ("load", ["pairs.tsv"], {"separator": "||"}, "got --data.separator '||'; "),
        ("load", ["pairs.tsv"], {"names": ["x"]}, "wanted 1 as in --data.columns x, separated"),
        ("load", ["pairs.tsv"], {"names": ["x", "x"]}, "got --data.columns x x; "),
        ("load", ["train.jsonl"], {"names": ["x"]}, "got --data.columns x for files"),
        ("load", ["train.jsonl"], {"separator": ";"}, "got --data.separator ';' for files"),
        ("load", ["dates"], {"encoding": "latin-1"}, "got --data.encoding latin-1 for"),
        ("load", ["dates"], {"splits": "none"}, "got --data.splits none for"),
        ("load", ["d"], {}, "pass --data.splits directories, or 'none'"),
        ("load", ["test_only"], {}, "Pass --data.splits none, which makes"),
        ("load", [("a.en", "a.fr")], {}, "got 1 lines in "),
        ("load", [("a.en", "a.fr")], {"splits": "files"}, "got --data.splits files for two aligned files"),
        ("load", [("a.en", "train.jsonl")], {}, "as one of two aligned files"),
        ("hold_out", ["train.jsonl"], {"validation": 0.6, "test": 0.6}, "got --data.held-out 0.6"),
    ],
)
def test_wrong_uses_of_data_name_options_alone(function, arguments, options, wanted, tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    run = {
        "load": data.load,
        "pairs": lambda source, **pair: data.text_pairs(data.load(source), **pair),
        "hold_out": lambda source, **shares: data.load_splits(source, by=["translation.en"], **shares),
    }[function]
    with pytest.raises(SystemExit) as error, exit_on_error("some", TRANSLATION):
        run(*arguments, **options)
    message = str(error.value)
    assert message.startswith("some: ") and wanted in message
    assert python_names(message) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(b1=2.0), "--train.optimizer.b1: got 2.0; wanted"),
        (lambda: TrainConfig(batch_size=0), "--train.batch-size: got 0; wanted"),
        (lambda: TrainConfig(checkpoint_every=3, evaluate_every=2), "--train.checkpoint-every: got 3;"),
        (lambda: MeshConfig(data=0), "--mesh.data: got 0; wanted"),
        (lambda: dataclasses.replace(TRANSLATION, label_smoothing=1.0), "--label-smoothing: got 1.0; wanted"),
        (
            lambda: dataclasses.replace(TRANSLATION, average=9),
            "--average: got 9 checkpoints of --train.keep 5",
        ),
        (lambda: dataclasses.replace(TRANSLATION, resume_step=9), "--resume-step: got 9 without --resume"),
        (lambda: dataclasses.replace(TRANSLATION.data, source=3), "--data.source: got 3; wanted a string"),
    ],
)
def test_a_field_out_of_range_is_named_as_its_option(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert python_names(str(error.value)) == []


def test_a_mesh_that_does_not_fit_names_its_options():
    with pytest.raises(SystemExit) as error, exit_on_error("some", TRANSLATION):
        train.make_mesh(data=3, tensor=5)
    assert "--mesh.data 3" in str(error.value) and python_names(str(error.value)) == []
