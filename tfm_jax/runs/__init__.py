"""Models of runs and of checkpoints of transformers: by their task, or with the parts that training needs."""

from tfm_jax.runs.convert import convert_run
from tfm_jax.runs.load import PROCESSOR_FILE, TrainedModel, load_model, read_model_config
from tfm_jax.runs.load_task import (
    load_image_classifier,
    load_run,
    load_sentence_encoder,
    load_text_classifier,
    load_text_generator,
)
from tfm_jax.runs.task import Origin, Task, is_run, read_origin, read_task, write_task

__all__ = [
    "PROCESSOR_FILE",
    "Origin",
    "Task",
    "TrainedModel",
    "convert_run",
    "is_run",
    "load_image_classifier",
    "load_model",
    "load_run",
    "load_sentence_encoder",
    "load_text_classifier",
    "load_text_generator",
    "read_model_config",
    "read_origin",
    "read_task",
    "write_task",
]
