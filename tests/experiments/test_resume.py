"""What a resume may change, what it refuses, and what it does beside damaged files."""

import importlib
import json
import shutil

import chex
import jax
import pytest

from experiments import runner
from experiments.config import defaults_of
from experiments.language_model.run import main as language_model
from tests.experiments.test_old_runs import OLD
from tests.experiments.test_runner import SHORTER, Config, config, lines_of, start
from tests.train import problem
from tfm_jax import train

CHANGES = ("rotate", "scale", "shear", "shift", "elastic")
MAY = [
    "mesh.data",
    "parallel",
    "out",
    "resume",
    "resume_step",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep",
    "train.patience",
    "train.log_every",
]
MAY_OF = {
    "classification": [],
    "digits": ["views.copies", *(f"views.changes.{name}" for name in CHANGES)],
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
    "clip_norm",
    "frozen_layers",
    "layer_decay",
]
MAY_NOT = [
    "init_from",
    "label_smoothing",
    "train.steps",
    "train.batch_size",
    "train.accumulate",
    "train.ema_decay",
    "train.seed",
]
MAY_NOT += [f"train.optimizer.{name}" for name in OPTIMIZER]
SOURCE = [
    "source",
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
MAY_NOT_OF = {
    "classification": ["pooling", "head_dropout_rate", *(
        f"data.{name}" for name in [*SOURCE, "text_column", "label_column", "max_length", "buckets"]
    )],
    "digits": ["patch_size", *(f"augment.{name}" for name in CHANGES), *(
        f"data.{name}" for name in [*SOURCE, "image", "label", "classes", "size"]
    )],
    "language_model": [f"data.{name}" for name in [*SOURCE, "column", "validation_bytes", "length"]],
    "translation": [f"data.{name}" for name in [*SOURCE, "pair", "max_length", "buckets", "batch_tokens"]],
}  # fmt: skip


@pytest.mark.parametrize("name", list(MAY_OF))
def test_each_field_is_said_to_change_on_a_resume_or_not(name):
    """A new field fails here: put it into one of the tables above and, where it may change, into FREE."""
    kind = importlib.import_module(f"experiments.{name}.config").Config
    fields = train.flat(runner.to_dict(kind()))
    may, may_not = {*MAY, *MAY_OF[name]}, {*MAY_NOT, *MAY_NOT_OF[name]}
    unknown = {field for field in fields if not field.startswith("model.")} - may - may_not
    assert not unknown, "may these change on a resume?"
    assert {field for field in fields if train.is_free(field, kind.FREE)} == may


def test_other_logging_evaluation_and_keeping_go_on_and_stay(tmp_path):
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
    saved = runner.load_config(Config, tmp_path / "run")
    assert (saved.train.log_every, saved.train.keep, saved.resume, saved.train.steps) == (1, 9, False, 4)
    assert config(*out, "--resume").train == saved.train  # the next resume has them too


def test_what_may_not_change_names_init_from(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"train.seed: saved 0, configured 1\n.*--init-from .*run"):
        runner.Run(config(*out, "--resume", "--train.seed", "1"), "regression")


def edit(path, section, **values):
    saved = json.loads(path.read_text())
    saved[section].update(values)
    path.write_text(json.dumps(saved))


def test_a_config_edited_by_hand_is_refused(tmp_path):
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
def test_data_in_another_place_are_known_again(tmp_path):
    """A user who moves a file writes its new path into config.json."""
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
def test_other_data_are_refused_whichever_split_they_are(tmp_path, split):
    out, digests = ("--out", str(tmp_path / "run")), {"train": "a", "validation": "b", "test": "c"}
    start(config(*out, *SHORTER), digests=digests)
    with pytest.raises(SystemExit, match=rf"data.{split}: the checkpoint has '\w', the run now 'x'"):
        start(config(*out, "--resume"), digests={**digests, split: "x"})
    start(config(*out, "--resume"), digests=digests)


@pytest.mark.parametrize("name", runner.INPUTS)
def test_other_files_that_the_model_reads_with_are_refused(tmp_path, name):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / name
    start(config(*out, *SHORTER))
    path.write_text("{}")
    with pytest.raises(
        SystemExit, match=rf"files.{name}: the checkpoint has None, the run now '\w+'\n.*init"
    ):
        start(config(*out, "--resume"))
    path.unlink()
    start(config(*out, "--resume"))


def test_a_checkpoint_of_before_has_no_record_and_goes_on(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    path = tmp_path / "run" / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["extra"]["record"]
    path.write_text(json.dumps(meta))
    start(config(*out, "--resume"), digests={"test": "c"})


TWELVE = ("--train.evaluate-every", "3", "--train.checkpoint-every", "3")


def test_a_run_goes_on_from_an_earlier_step_and_nothing_is_lost(tmp_path, capsys):
    whole = start(config("--out", str(tmp_path / "run"), *TWELVE))
    before, lines = sorted(whole.checkpoints.iterdir()), lines_of(tmp_path / "run")
    again = start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "6"))
    aside = tmp_path / "run" / "set_aside"
    assert f"the checkpoints after step 6 are now in {aside}" in capsys.readouterr().out
    assert {path.name for path in aside.iterdir()} == {"9", "12", "metrics.jsonl"}
    assert (aside / "metrics.jsonl").read_text().splitlines() == [json.dumps(line) for line in lines]
    assert sorted(whole.checkpoints.iterdir()) == before
    chex.assert_trees_all_equal(jax.device_get(again.params), jax.device_get(whole.params))
    names = [line["step"] for line in lines_of(tmp_path / "run")]
    assert names == [line["step"] for line in lines]
    start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "9"))
    assert {path.name for path in (tmp_path / "run" / "set_aside-1").iterdir()} == {"12", "metrics.jsonl"}
    with pytest.raises(SystemExit, match=r"a checkpoint of step 7 .* has steps \[3, 6, 9, 12\]"):
        start(config("--out", str(tmp_path / "run"), "--resume", "--resume-step", "7"))


def test_a_damaged_checkpoint_names_the_last_good_one_and_the_run_goes_on_from_it(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "checkpoints"
    whole = start(config(*out, *TWELVE))
    for file in (path / "12" / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:9])
    (path / "9" / "meta" / "metadata").write_text("{")
    said = r"regression: the checkpoint .*/12 is damaged \(.*\). The last good one is of step 6: .*-step 6$"
    with pytest.raises(SystemExit, match=said):
        start(config(*out, "--resume"))
    again = start(config(*out, "--resume", "--resume-step", "6"))
    chex.assert_trees_all_equal(jax.device_get(again.params), jax.device_get(whole.params))
    assert {p.name for p in (tmp_path / "run" / "set_aside").iterdir()} == {"9", "12", "metrics.jsonl"}


ODD = [
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


@pytest.mark.parametrize("text", ODD)
def test_a_damaged_config_is_one_line_that_names_the_file_and_the_way_out(tmp_path, text):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "config.json"
    runner.Run(config(*out), "regression")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit) as error:
        runner.Run(config(*out, "--resume"), "regression")
    said = str(error.value)
    assert str(path) in said and "copy of it back" in said and "another --out" in said and "\n" not in said


def test_figures_that_are_damaged_are_named_before_anything_is_done(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / "metrics.jsonl"
    start(config(*out, *SHORTER))
    good = path.read_text()
    path.write_text(good + "junk\n" + good)
    with pytest.raises(
        SystemExit, match=r"regression: .*metrics.jsonl, line 3: got 'junk'; .*Take this line out"
    ):
        runner.Run(config(*out, "--resume"), "regression")
    assert path.read_text() == good + "junk\n" + good
    path.write_text(good + '{"step": 9')  # as a kill leaves it
    runner.Run(config(*out, "--resume"), "regression")


@pytest.mark.parametrize(
    ("name", "got", "wanted"),
    [
        ("checkpoints", "file", "directory"),
        ("events", "file", "directory"),
        ("metrics.jsonl", "directory", "file"),
    ],
)
def test_a_file_in_the_place_of_a_directory_is_named(tmp_path, name, got, wanted):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run" / name
    runner.Run(config(*out), "regression")
    path.mkdir() if got == "directory" else path.touch()
    with pytest.raises(
        SystemExit, match=rf"regression: .*{name}: got a {got}; wanted the {wanted} .* Move it away"
    ):
        runner.Run(config(*out, "--resume"), "regression")
    path.rmdir() if got == "directory" else path.unlink()
    runner.Run(config(*out, "--resume"), "regression")


def test_what_is_no_checkpoint_under_the_name_of_one_is_named(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    (tmp_path / "run" / "checkpoints" / "notes").mkdir()  # in nobody's way
    (tmp_path / "run" / "checkpoints" / "7").touch()
    with pytest.raises(SystemExit, match=r"regression: .*checkpoints/7: got .*Move it away"):
        start(config(*out, "--resume"))
    (tmp_path / "run" / "checkpoints" / "7").unlink()
    start(config(*out, "--resume"))


def test_junk_among_the_figures_while_it_runs_costs_no_result(tmp_path, capsys):
    def valid():
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write("junk\n")
        return (problem.make_batch(1000 + i) for i in range(2))

    drawn = []
    start(config("--out", str(tmp_path / "run"), *SHORTER), valid=valid, curves=lambda *a: drawn.append(a))
    assert not drawn and "no curves.png" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").exists()


def test_before_is_of_fields_that_there_are():
    for name in MAY_OF:
        kind = importlib.import_module(f"experiments.{name}.config").Config
        assert train.flat(defaults_of(kind))["data.held_out_salt"] is None
        assert train.flat(runner.to_dict(kind()))["data.held_out_salt"] == "tfm_jax"
