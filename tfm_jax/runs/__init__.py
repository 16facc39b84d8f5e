"""The trained model of a run, or of a checkpoint of transformers, from its directory."""

from tfm_jax.runs.convert import convert_run
from tfm_jax.runs.load import PROCESSOR_FILE, TrainedModel, load_model, load_run, read_model_config
from tfm_jax.runs.task import Origin, Task, is_run, read_origin, read_task, write_task

__all__ = [
    "PROCESSOR_FILE",
    "Origin",
    "Task",
    "TrainedModel",
    "convert_run",
    "is_run",
    "load_model",
    "load_run",
    "read_model_config",
    "read_origin",
    "read_task",
    "write_task",
]
