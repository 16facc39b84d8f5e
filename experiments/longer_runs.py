"""Longer runs: ``--resume --train.steps N``, with more steps than the run had planned.

The schedule is a function of the step and of the config, in which ``train.optimizer.extended`` lists what was
planned before. Each checkpoint records the plan that it was trained by.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from experiments.config import Longer, RunConfig, TrainConfig
from tfm_jax import processes, train
from tfm_jax.train.checkpoint_files import consecutive_steps
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.run_directory import load_config
from tfm_jax.values import plain

__all__ = ["check_plan", "continue_run", "describe_schedule", "lengthen", "plan_of"]

C = TypeVar("C", bound=RunConfig)
_STEPS, _EXTENDED = "train.steps", "train.optimizer.extended"


def lengthen(config: C) -> C:
    """The config of a resume, which may have more steps than the run in ``config.out`` has planned.

    Another ``when_longer`` without more steps replaces that of the last time that the run was made longer.

    Raises:
      ValueError: there are fewer steps than planned, or ``extended`` is not that of the run.
    """
    if not config.resume or config.out is None or not (path := config.out / "config.json").is_file():
        return config
    settings, saved = config.train, load_config(type(config), path).train
    optimizer, before = settings.optimizer, saved.optimizer
    if optimizer.extended != before.extended:
        raise ValueError(
            f"--train.optimizer.extended: got {optimizer.extended}; wanted that of the run, "
            f"{before.extended}. Leave it out: a resume with more --train.steps adds to it"
        )
    if settings.steps < saved.steps:
        last = max(consecutive_steps(config.out / "checkpoints"), default=0)
        raise ValueError(
            f"--train.steps: got {settings.steps}; wanted at least {saved.steps}, as planned; the run's "
            f"last checkpoint is of step {last}. Ctrl-C or --train.patience ends a run earlier"
        )
    if settings.steps > saved.steps:
        optimizer = optimizer.longer(saved.steps)
    elif before.extended and optimizer.when_longer != before.when_longer:
        start, extended = before.extended[-1][0], before.extended[:-1]
        optimizer = dataclasses.replace(optimizer, extended=extended).longer(start)
    else:
        return config
    return dataclasses.replace(config, train=dataclasses.replace(settings, optimizer=optimizer))


def plan_of(settings: TrainConfig) -> dict[str, Any]:
    """What decides the rate of each step beside the fixed fields, for the record of a checkpoint."""
    return {_STEPS: settings.steps, _EXTENDED: plain(settings.optimizer.extended)}


def check_plan(settings: TrainConfig, record: Mapping[str, Any], step: int) -> bool:
    """Whether a run continues beyond the plan of a checkpoint.

    Args:
      settings: of the run now.
      record: of the checkpoint; that of an old one has no plan.
      step: of the checkpoint.

    Returns:
      True if the run is longer now than it was planned when the checkpoint was saved.

    Raises:
      ValueError: the checkpoint was trained by another plan.
    """
    saved = record.get("config", {})
    if _STEPS not in saved:
        return False
    old = _ends(saved.get(_EXTENDED, []), saved[_STEPS])
    new = _ends(plain(settings.optimizer.extended), settings.steps)
    if new[: len(old)] == old:
        return len(new) > len(old)
    ends = ", ".join(str(end) for end in new)
    raise ValueError(
        f"the config: got a plan of {ends} (steps, and the schedule after them); wanted one that starts with "
        f"that of the checkpoint of step {step}, {', '.join(map(str, old))}. Put the config back as the run "
        "wrote it, or add --resume-step N of an earlier checkpoint"
    )


def continue_run(
    path: Path, last: int, early_stopping: train.EarlyStopping | None, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Keeps the result of the shorter run, which ended at step ``last``; the ``extra`` to continue from.

    If early stopping ended the run, it counts anew.
    """
    result, state = path / "result.json", extra.get("early_stop", {})
    if processes.is_main() and result.exists():
        os.replace(result, path / f"result-{last}.json")
    if early_stopping is not None and early_stopping.should_stop(state):
        state = {**state, "bad": 0}
    return {**extra, "early_stop": state}


def describe_schedule(settings: TrainConfig, schedule: Schedule) -> str:
    """What the schedule does after the steps that were planned before, as a sentence."""
    start, way = settings.optimizer.extended[-1]
    rate, peak = float(schedule(start - 1)), settings.optimizer.learning_rate
    if way == "hold" and settings.optimizer.schedule != "noam" and rate < 0.01 * peak:
        note = (
            f", {100 * rate / peak:.2g} % of its peak (--train.optimizer.when-longer rewarm starts it again)"
        )
    else:
        note = ""
    end = f", and its cosine ends at step {settings.steps}" if settings.optimizer.schedule == "cosine" else ""
    sentences: dict[Longer, str] = {
        "hold": f"the learning rate stays at {rate:.3g} from step {start} on{note}",
        "rewarm": f"the learning rate is warmed up again from step {start} on{end}",
        "continue": f"the learning rate follows its schedule beyond step {start}",
    }
    return sentences[way]


def _ends(extended: Any, steps: int) -> list[Any]:
    """The plan as a list that starts with each earlier one: ends, and what followed them."""
    return [*(item for pair in extended for item in pair), steps]
