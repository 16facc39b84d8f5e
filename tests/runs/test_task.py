import json

import jax
import pytest

import tfm_jax
from tfm_jax import runs
from tfm_jax.runs.task import TASK_FILE, Origin, Task

CLASSIFIER = {"task": "text-classification", "labels": ("b", "a"), "pooling": "first"}
TASKS = [
    Task(task="translation", max_length=7),
    Task(task="text-generation"),
    Task(**CLASSIFIER, head_dropout_rate=0.25, pairs=True),
    Task(task="image-classification", labels=("cat",), pooling="mean"),
]
ORIGIN = Origin(versions={"jax": "1"}, data={"train": "0f"}, seed=3)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_a_task_is_read_back(task, tmp_path):
    runs.write_task(tmp_path, task, ORIGIN)
    assert runs.read_task(tmp_path) == task
    assert runs.read_origin(tmp_path) == ORIGIN


def test_the_origin_of_a_model_has_the_versions_of_now():
    origin = Origin.now({"train": "0f"}, seed=5)
    assert (origin.data, origin.seed) == ({"train": "0f"}, 5)
    assert origin.versions["jax"] == jax.__version__
    assert origin.versions["tfm_jax"] == tfm_jax.__version__
    assert {"python", "tfm_jax", "flax", "optax", "numpy"} <= origin.versions.keys()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"task": "text-classification"}, "wanted the labels of the classes"),
        ({"task": "translation", "labels": ("a",)}, "wanted no labels"),
        ({**CLASSIFIER, "task": "guessing"}, "task='guessing'"),
        ({**CLASSIFIER, "pooling": "last"}, "pooling='last'"),
    ],
)
def test_a_wrong_task_is_an_error(fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        Task(**fields)


def test_a_run_of_an_older_version_has_no_task(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no task\.json; wanted a run of version 0\.5 or newer"):
        runs.read_task(tmp_path)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"labels": None}, "got no valid task"),
        ({"pooling": "last"}, "got no valid task"),
        ({"more": 1}, "got no valid task"),
        ({"format": 99}, "got format 99"),
    ],
)
def test_a_damaged_file_is_one_error_with_its_name(change, wanted, tmp_path):
    runs.write_task(tmp_path, Task(**CLASSIFIER), ORIGIN)
    path = tmp_path / TASK_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=wanted) as error:
        runs.read_task(tmp_path)
    assert str(path) in str(error.value)
