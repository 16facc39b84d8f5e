"""The trained model of a run, or of a checkpoint of transformers, from its directory."""

from tfm_jax.runs.load import PROCESSOR_FILE, TrainedModel, load_model, load_run, read_model_config
from tfm_jax.runs.task import Origin, Task, read_origin, read_task, write_task

__all__ = [
    "PROCESSOR_FILE",
    "Origin",
    "Task",
    "TrainedModel",
    "load_model",
    "load_run",
    "read_model_config",
    "read_origin",
    "read_task",
    "write_task",
]
