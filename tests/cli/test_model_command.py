"""``tfm CMD MODEL [INPUT ...]``: one grammar for all commands of models; errors come before one is loaded."""

import json

import pytest

from tests.cli.test_options import nothing_loads  # noqa: F401  - a fixture
from tests.pretrained.families.test_families import FIELDS
from tfm_jax import nn, pretrained, runs
from tfm_jax.pretrained.families import find_family

COMMANDS = ("translate", "generate", "embed", "classify")
LABELS = {"text-classification", "token-classification", "image-classification"}
USED_BY = {
    "translation": {"translate"},
    "text-generation": {"generate"},
    "text-classification": {"classify", "embed"},
    "token-classification": {"classify", "embed"},
    "image-classification": {"classify"},
}
ARCHITECTURES = {
    "BartForConditionalGeneration": ("bart", {"translate"}),
    "LlamaForCausalLM": ("llama", {"generate"}),
    "BertForSequenceClassification": ("bert", {"classify", "embed"}),
    "BertForTokenClassification": ("bert", {"classify", "embed"}),
    "BertForMaskedLM": ("bert", {"embed"}),
    "BertModel": ("bert", {"embed"}),
    "ViTForImageClassification": ("vit", {"classify"}),
    "ViTModel": ("vit", set()),
}


def make_run(directory, task):
    """The files of a run that say what it is for; it has no model."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model": {}, "train": {}}))
    labels = ("a", "b") if task in LABELS else ()
    runs.write_task(directory, runs.Task(task=task, labels=labels), runs.Origin.now({}, 0))
    return directory


def make_checkpoint(directory, architecture):
    """The ``config.json`` of a checkpoint, without weights."""
    family = find_family(architecture)
    fields = FIELDS[ARCHITECTURES[architecture][0]]
    if architecture == "BertForSequenceClassification":
        fields = fields | {"pooler": nn.Pooler("tanh")}
    config = pretrained.CheckpointConfig(
        architecture, nn.Config(**fields), {"id2label": {"0": "a", "1": "b"}}
    )
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(family.write_config(config)))
    return directory


@pytest.fixture
def loaded(monkeypatch):
    """The functions that loaded a model, each of which then fails."""
    found = []

    def spy(name):
        def load(source, *args, **options):
            found.append((name, str(source), options))
            raise ValueError("seen")

        return load

    for name in ("text_generator", "text_classifier", "image_classifier", "sentence_encoder"):
        monkeypatch.setattr(runs, f"load_{name}", spy(f"load_{name}"))
    return found


def check_only_these_use(model, commands, tfm, loaded):
    for command in COMMANDS:
        loaded.clear()
        status, out, err = tfm(command, model, "text")
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        if command in commands:
            assert err == "tfm: seen\n" and [source for _, source, _ in loaded] == [str(model)]
        else:
            assert not loaded and err.startswith(f"tfm: {model}: got a")
            fixes = [f"Use tfm {name}." for name in commands] or ["No command uses it; load it in Python."]
            assert any(err.endswith(f"{fix}\n") for fix in fixes)


@pytest.mark.parametrize("task", USED_BY)
def test_a_run_is_used_by_the_commands_of_its_task(task, tfm, loaded, tmp_path):
    check_only_these_use(make_run(tmp_path / "run", task), USED_BY[task], tfm, loaded)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_used_by_the_commands_of_its_architecture(architecture, tfm, loaded, tmp_path):
    model = make_checkpoint(tmp_path / "model", architecture)
    check_only_these_use(model, ARCHITECTURES[architecture][1], tfm, loaded)


def test_a_sentence_model_without_a_config_is_for_embed(tfm, loaded, tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    check_only_these_use(tmp_path, {"embed"}, tfm, loaded)


def test_model_is_an_alias_of_the_first_argument(tfm, loaded, tmp_path):
    run, model = make_run(tmp_path / "run", "text-classification"), tmp_path / "model"
    make_checkpoint(model, "BertForSequenceClassification")
    for source, options in ((run, {"average": 2}), (model, {"allow_pickle": True})):
        words = [word for name in options for word in (f"--{name.replace('_', '-')}",)]
        words += [2] if "average" in options else []
        for command, function in (("classify", "load_text_classifier"), ("embed", "load_sentence_encoder")):
            for argv in ([source, "text"], ["--model", source, "text"], ["text", "--model", source]):
                assert tfm(command, *argv, *words, "--dtype", "bfloat16")[2] == "tfm: seen\n"
                assert loaded.pop() == (function, str(source), {"dtype": "bfloat16", **options})


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_does_not_fit_the_source_is_an_error_that_names_it(
    command,
    tfm,
    nothing_loads,  # noqa: F811
    tmp_path,
):
    run = make_run(tmp_path / "run", "translation")
    checkpoint = make_checkpoint(tmp_path / "model", "LlamaForCausalLM")
    for argv, message in (
        (["--average", 2, checkpoint], f"--average: got a checkpoint, {checkpoint}; wanted a run."),
        (["--average", 2, "owner/name"], "--average: got a checkpoint, owner/name; wanted a run."),
        (["--allow-pickle", run], f"--allow-pickle: got a run, {run}; wanted a checkpoint."),
        (["--allow-pickle", "--model", run], f"--allow-pickle: got a run, {run}; wanted a checkpoint."),
    ):
        assert tfm(command, *argv, "text") == (2, "", f"tfm: {message} Leave it out.\n")
    status, _, err = tfm(command)
    assert status == 2 and err.endswith(f"owner/name on the Hugging Face hub. Run tfm {command} MODEL.\n")


def test_errors_about_arguments_name_the_options(tfm, monkeypatch, tmp_path):
    def load(source, *, average=None, dtype=None):
        raise ValueError(f"load_text_classifier: got average={average}; wanted 1 to 2.")

    monkeypatch.setattr(runs, "load_text_classifier", load)
    run = make_run(tmp_path / "run", "text-classification")
    assert tfm("classify", run, "a", "--average", 3)[2] == "tfm: --average: got 3; wanted 1 to 2.\n"


@pytest.mark.parametrize("command", ["generate", "embed", "classify"])
def test_without_a_task_file_the_model_says_what_it_is_for(command, tfm, translator):
    """A run of an older version."""
    assert not (translator / "task.json").exists()
    status, _, err = tfm(command, translator, "a")
    assert status == 2 and err.startswith(f"tfm: {translator}: got an encoder-decoder; wanted ")
    assert err.endswith("Use tfm translate.\n")
