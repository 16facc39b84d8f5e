"""Resume: which settings may change, other data, earlier steps, damaged files."""

import contextlib
import importlib
import json
import shutil

import chex
import jax
import pytest

from experiments import runner
from experiments.language_model.run import main as language_model
from tests.experiments.test_old_runs import OLD
from tests.experiments.test_runner import SHORTER, Config, Validation, config, fit, lines_of, start
from tfm_jax import runs
from tfm_jax.train.run_directory import flatten, is_under, load_config
from tfm_jax.values import to_dict

CHANGES = ("rotate", "scale", "shear", "shift", "elastic")
FREE = [
    *(f"mesh.{name}" for name in ("data", "fsdp", "tensor", "sequence", "expert")),
    "parallel",
    "out",
    "resume",
    "resume_step",
    "train.steps",
    "train.optimizer.when_longer",
    "train.optimizer.extended",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep",
    "train.patience",
    "train.log_every",
    "restore_concurrent_gb",
    "distributed",
    "profile",
    "compilation_cache",
]
FREE_OF = {
    "classification": [],
    "images": ["views.copies", *(f"views.changes.{name}" for name in CHANGES)],
    "language_model": [
        "data.overlap",
        *(f"sample.{name}" for name in ("prompt", "tokens", "temperature", "top_p")),
    ],
    "translation": ["data.decoded", "search.beams", "search.length_penalty", "average"],
}
OPTIMIZER = [
    "schedule",
    "learning_rate",
    "noam_factor",
    "warmup",
    "weight_decay",
    "b1",
    "b2",
    "eps",
    "mu_dtype",
    "clip_norm",
    "frozen_layers",
    "layer_decay",
]
FIXED = [
    "init_from",
    "label_smoothing",
    "train.batch_size",
    "train.accumulate",
    "train.gradient_dtype",
    "train.ema_decay",
    "train.seed",
]
FIXED += [f"train.optimizer.{name}" for name in OPTIMIZER]
SOURCE = [
    "source",
    "columns",
    "task",
    "text_columns",
    "drop_missing_classes",
    "splits",
    "separator",
    "encoding",
    "channels",
    "held_out",
    "held_out_salt",
    "validation",
    "test",
    "tokenizer",
    "vocab_size",
]
FIXED_OF = {
    "classification": ["pooling", "head_dropout_rate", *(
        f"data.{name}" for name in [*SOURCE, "task", "text_column", "text_columns", "label_column", "columns",
                                    "drop_missing_classes", "max_length", "buckets"]
    )],
    "images": ["patch_size", *(f"augment.{name}" for name in CHANGES), *(
        f"data.{name}" for name in [*SOURCE, "image", "label", "classes", "drop_missing_classes", "size"]
    )],
    "language_model": [
        f"data.{name}" for name in [*SOURCE, "column", "columns", "validation_bytes", "length"]
    ],
    "translation": [
        f"data.{name}" for name in [*SOURCE, "pair", "columns", "max_length", "buckets", "batch_tokens"]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(FREE_OF))
def test_each_field_may_change_on_a_resume_or_not(name):
    """A new field fails here: add it to a table above and, if it may change, to MAY_CHANGE of its config."""
    kind = importlib.import_module(f"experiments.{name}.config").Config
    fields = flatten(to_dict(kind()))
    free, fixed = {*FREE, *FREE_OF[name]}, {*FIXED, *FIXED_OF[name]}
    unknown = {field for field in fields if not field.startswith("model.")} - free - fixed
    assert not unknown, "may these change on a resume?"
    assert {field for field in fields if is_under(field, kind.MAY_CHANGE)} == free


def test_changed_logging_and_evaluation_are_used_and_saved(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")  # stopped after step 2
    changed = (
        "--train.log-every",
        "1",
        "--train.evaluate-every",
        "1",
        "--train.keep",
        "9",
        "--train.patience",
        "7",
    )
    start(config(*out, "--resume", *changed))
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [2, 3, 4]
    assert all("validation/loss" in line for line in lines_of(tmp_path / "run"))
    saved = load_config(Config, tmp_path / "run" / "config.json")
    assert (saved.train.log_every, saved.train.keep, saved.resume, saved.train.steps) == (1, 9, False, 4)
    assert config(*out, "--resume").train == saved.train  # for the next resume


def test_change_of_a_fixed_field_names_init_from(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"train.seed: saved 0, configured 1\n.*--init-from .*run"):
        runner.Run(config(*out, "--resume", "--train.seed", "1"), "regression")


def edit(path, section, **values):
    saved = json.loads(path.read_text())
    saved[section].update(values)
    path.write_text(json.dumps(saved))


def test_config_edited_by_hand_exits(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "config.json"
    start(config(*out, *SHORTER))
    edit(path, "train", seed=3, log_every=1)  # the second may change
    with pytest.raises(
        SystemExit, match=r"config.train.seed: the checkpoint has 0, the run now 3\n.*--init-from"
    ) as error:
        start(config(*out, "--resume"))
    assert "log_every" not in str(error.value)
    edit(path, "train", seed=0)
    start(config(*out, "--resume"))


@pytest.mark.slow
def test_moved_data_are_recognized_by_their_content(tmp_path):
    """After moving a file, a user writes its new path into config.json."""
    shutil.copytree(OLD / "language_model", tmp_path / "old")
    out, path = tmp_path / "old" / "run", tmp_path / "old" / "run" / "config.json"
    for name in ("documents.jsonl", "moved.jsonl"):
        edit(path, "data", source=str(tmp_path / "old" / name))
        language_model(["--out", str(out), "--resume"])
        shutil.copy(tmp_path / "old" / "documents.jsonl", tmp_path / "old" / "moved.jsonl")
    text = (tmp_path / "old" / "moved.jsonl").read_text()
    (tmp_path / "old" / "moved.jsonl").write_text(text.replace("saw", "axe"))
    with pytest.raises(SystemExit, match=r"data.validation: the checkpoint has|got a saved state of batches"):
        language_model(["--out", str(out), "--resume"])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_data_of_any_split_exit(tmp_path, split):
    out, digests = ("--out", str(tmp_path / "run")), {"train": "a", "validation": "b", "test": "c"}
    start(config(*out, *SHORTER), digests=digests)
    with pytest.raises(SystemExit, match=rf"data.{split}: the checkpoint has '\w', the run now 'x'"):
        start(config(*out, "--resume"), digests={**digests, split: "x"})
    start(config(*out, "--resume"), digests=digests)


def preprocess(run, name, content="{}"):
    """Writes a file of preprocessing, as an experiment does before training."""
    (run.path / name).write_text(content)
    return run


@pytest.mark.parametrize("name", runner._PREPROCESSING_FILES)
def test_other_preprocessing_files_exit(tmp_path, name):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / name
    fit(preprocess(runner.Run(config(*out, *SHORTER), "regression"), name))
    for change, now in ((lambda: path.write_text("[]"), r"'\w+'"), (path.unlink, "None")):
        change()
        with pytest.raises(
            SystemExit, match=rf"files.{name}: the checkpoint has '\w+', the run now {now}\n.*init"
        ):
            start(config(*out, "--resume"))
    path.write_text("{}")
    start(config(*out, "--resume"))


@pytest.mark.parametrize("name", runner._PREPROCESSING_FILES)
def test_a_new_preprocessing_file_exits_but_that_of_images(tmp_path, name):
    """A run of images of an older version has no preprocessor_config.json, and gets it on its resume."""
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / name
    start(config(*out, *SHORTER))
    path.write_text("{}")
    is_free = name == runs.PROCESSOR_FILE
    message = rf"files.{name}: the checkpoint has None, the run now '\w+'\n.*init"
    with contextlib.nullcontext() if is_free else pytest.raises(SystemExit, match=message):
        start(config(*out, "--resume"))


def test_old_checkpoint_without_a_record_resumes(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    path = tmp_path / "run" / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["extra"]["record"]
    path.write_text(json.dumps(meta))
    start(config(*out, "--resume"), digests={"test": "c"})


TWELVE = ("--train.evaluate-every", "3", "--train.checkpoint-every", "3")


def test_resume_from_an_earlier_step_keeps_the_later_ones_aside(tmp_path, capsys):
    uninterrupted = start(config("--out", str(tmp_path / "run"), *TWELVE))
    before, lines = sorted(uninterrupted.checkpoints.iterdir()), lines_of(tmp_path / "run")
    again = start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "6"))
    aside = tmp_path / "run" / "set_aside"
    assert f"moved the checkpoints after step 6 to {aside}" in capsys.readouterr().out
    assert {path.name for path in aside.iterdir()} == {"9", "12", "metrics.jsonl", "result.json"}
    assert (aside / "metrics.jsonl").read_text().splitlines() == [json.dumps(line) for line in lines]
    assert sorted(uninterrupted.checkpoints.iterdir()) == before
    chex.assert_trees_all_equal(jax.device_get(again.params), jax.device_get(uninterrupted.params))
    names = [line["step"] for line in lines_of(tmp_path / "run")]
    assert names == [line["step"] for line in lines]
    start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "9"))
    assert {path.name for path in (tmp_path / "run" / "set_aside-1").iterdir()} == {
        "12",
        "metrics.jsonl",
        "result.json",
    }
    with pytest.raises(SystemExit, match=r"with steps \[3, 6, 9, 12\]; wanted the checkpoint of step 7"):
        start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "7"))


def test_damaged_checkpoint_names_the_last_intact_one_to_resume_from(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "checkpoints"
    uninterrupted = start(config(*out, *TWELVE))
    for file in (path / "12" / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:9])
    (path / "9" / "meta" / "metadata").write_text("{")
    message = r"regression: .*/12: got a damaged checkpoint \(.*The last intact one is of step 6: .*-step 6$"
    with pytest.raises(SystemExit, match=message):
        start(config(*out, "--resume"))
    again = start(config(*out, "--resume", "--resume-step", "6"))
    chex.assert_trees_all_equal(jax.device_get(again.params), jax.device_get(uninterrupted.params))
    assert {p.name for p in (tmp_path / "run" / "set_aside").iterdir()} == {
        "9",
        "12",
        "metrics.jsonl",
        "result.json",
    }


BAD_CONFIGS = [
    "{",
    "[]",
    "3",
    "\udcff",
    '{"train": 5}',
    '{"mesh": null}',
    '{"parallel": "tpu"}',
    '{"train": {"steps": "many"}}',
    '{"train": {"steps": 2.5}}',
    '{"train": {"steps": 1e400}}',
    '{"train": {"stepz": 1}}',
    '{"train": {"optimizer": {"b1": [1]}}}',
    '{"model": {"widths": 5}}',
    '{"a":' * 9000,
    '{"model": ' * 400 + "1" + "}" * 400,
]


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_damaged_config_exits_with_one_line_with_its_name_and_the_fix(tmp_path, text):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "config.json"
    runner.Run(config(*out), "regression")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit) as error:
        runner.Run(config(*out, "--resume"), "regression")
    text = str(error.value)
    assert str(path) in text and "copy of it back" in text and "another --out" in text and "\n" not in text


def test_damaged_metrics_exit_before_anything_changes(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "metrics.jsonl"
    start(config(*out, *SHORTER))
    good = path.read_text()
    path.write_text(good + "junk\n" + good)
    with pytest.raises(
        SystemExit, match=r"regression: .*metrics.jsonl, line 3: got 'junk'; .*Remove this line"
    ):
        runner.Run(config(*out, "--resume"), "regression")
    assert path.read_text() == good + "junk\n" + good
    path.write_text(good + '{"step": 9')  # as after a kill
    runner.Run(config(*out, "--resume"), "regression")


@pytest.mark.parametrize(
    ("name", "got", "wanted"),
    [
        ("checkpoints", "file", "directory"),
        ("events", "file", "directory"),
        ("metrics.jsonl", "directory", "file"),
    ],
)
def test_file_in_place_of_a_directory_exits_with_its_name(tmp_path, name, got, wanted):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / name
    runner.Run(config(*out), "regression")
    path.mkdir() if got == "directory" else path.touch()
    with pytest.raises(
        SystemExit, match=rf"regression: .*{name}: got a {got}; wanted the {wanted} .* Move it away"
    ):
        runner.Run(config(*out, "--resume"), "regression")
    path.rmdir() if got == "directory" else path.unlink()
    runner.Run(config(*out, "--resume"), "regression")


def test_stray_file_with_the_name_of_a_checkpoint_exits(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    (tmp_path / "run" / "checkpoints" / "notes").mkdir()  # ignored
    (tmp_path / "run" / "checkpoints" / "7").touch()
    with pytest.raises(SystemExit, match=r"regression: .*checkpoints/7: got .*Move it away"):
        start(config(*out, "--resume"))
    (tmp_path / "run" / "checkpoints" / "7").unlink()
    start(config(*out, "--resume"))


def test_junk_in_the_metrics_of_a_running_run_keeps_its_result(tmp_path, capsys):
    class Writing(Validation):
        def __iter__(self):
            with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
                file.write("junk\n")
            return super().__iter__()

    drawn = []
    start(
        config("--out", str(tmp_path / "run"), *SHORTER),
        validation=Writing(),
        curves=lambda *args, title: drawn.append(args),
    )
    assert not drawn and "no curves.png" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("name", list(FREE_OF))
def test_config_of_version_0_1_holds_out_by_a_permutation(name, tmp_path):
    """Version 0.1 had no salt and no format."""
    kind = importlib.import_module(f"experiments.{name}.config").Config
    saved = to_dict(kind())
    assert saved["data"].pop("held_out_salt") == "tfm_jax"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert load_config(kind, tmp_path / "config.json").data.held_out_salt is None


@pytest.mark.parametrize("edited", ["config.json", "checkpoints/4/meta/metadata"])
def test_run_of_a_newer_format_exits_with_one_line(tmp_path, edited):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / edited
    start(config(*out, *SHORTER))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    message = r"^\w+: \S+: got format 3; wanted at most 2. .*pip install -U \S+$"
    with pytest.raises(SystemExit, match=message):
        start(config(*out, "--resume"))


def test_resume_writes_the_current_format(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "config.json"
    start(config(*out, *SHORTER))
    saved = json.loads(path.read_text())
    assert saved.pop("format") == 2
    path.write_text(json.dumps(saved))
    start(config(*out, "--resume"))
    assert json.loads(path.read_text()) == {"format": 2, **saved}
