"""What commands that use a model share: ``tfm CMD MODEL [INPUT ...]``, with a run or a checkpoint."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._lines import LineCommand
from tfm_jax.cli._options import Command, optional
from tfm_jax.fields import option_name
from tfm_jax.ranges import Size

if TYPE_CHECKING:
    from tfm_jax.generate import TextGenerator

__all__ = ["ModelCommand", "check_source", "option_errors"]

_LOAD_OPTIONS = ("average", "dtype", "allow_pickle")
"""Arguments of ``runs.load_...`` that are options of the same name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCommand(LineCommand):
    """Options for the model and its inputs."""

    first: Annotated[Positional[str | None], arg(metavar="MODEL", help_behavior_hint="")] = None
    """The model: the directory of a run or of a checkpoint of transformers, or owner/name on the Hugging Face
    hub."""
    rest: Annotated[Positional[tuple[str, ...]], arg(metavar="[INPUT ...]", help_behavior_hint="")] = ()
    """The inputs. Without any, and without --file, the lines of standard input."""
    model: Annotated[str | None, optional("MODEL", "the first argument")] = None
    """The model, as an option: then all arguments are inputs."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        optional("{float32,bfloat16}", "the run's, or float32 for a checkpoint"),
    ] = None
    """Dtype of the parameters and the activations."""
    average: Annotated[Size | None, optional("N", "the run's config, or 1")] = None
    """Average the parameters of the last N checkpoints of the run. Only for a run."""
    allow_pickle: bool = False
    """Read pytorch_model.bin if there is no safetensors file. Needs torch, which loads weights only. Only for
    a checkpoint."""

    name: ClassVar[str]
    """Of the command."""
    only_for_runs: ClassVar[tuple[str, ...]] = ("average",)
    only_for_checkpoints: ClassVar[tuple[str, ...]] = ("allow_pickle",)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs: with --model, all positional arguments."""
        first = () if self.model is None or self.first is None else (self.first,)
        return (*first, *self.rest)

    @property
    def source(self) -> str:
        """The model, as it was passed."""
        return self.model or self.first or ""

    @functools.cached_property
    def is_run(self) -> bool:
        """Whether the model is a run; else it is a checkpoint."""
        return tfm_jax.runs.is_run(self.source)

    def check(self) -> None:
        """Checks that there is a model, and that the options fit a run or a checkpoint, whichever it is."""
        super().check()
        if not self.source:
            raise ValueError(
                "got no model; wanted the directory of a run or a checkpoint, or owner/name on the Hugging "
                f"Face hub. Run tfm {self.name} MODEL."
            )
        check_source(self, self.source, self.is_run, self.only_for_runs, self.only_for_checkpoints)

    @functools.cached_property
    def directory(self) -> Path:
        """The directory of the model; that of the local cache for a name on the hub."""
        if self.is_run:
            return Path(self.source)
        from tfm_jax.pretrained.weights.files import checkpoint_directory

        return checkpoint_directory(self.source, allow_pickle=self.allow_pickle)

    def check_model(self) -> str | None:
        """The task of the model, checked; None where its files do not say it."""
        from tfm_jax.cli import _kinds

        task_of = _kinds.task_of_run if self.is_run else _kinds.task_of_checkpoint
        task = task_of(self.directory)
        if task is not None:
            self.check_task(task)
        return task

    def check_task(self, task: str) -> None:
        """Raises where the command cannot use a model of this task; the message names one that can."""
        from tfm_jax.cli import _kinds

        _kinds.check_task(self.source, task, self.name)

    def check_generator(self, generator: "TextGenerator") -> None:
        """`check_task` of a loaded model: a run of an older version does not say what it is for."""
        self.check_task("translation" if generator.is_encoder_decoder else "text-generation")

    @property
    def load_options(self) -> dict[str, Any]:
        """The arguments of ``runs.load_...`` that are options of the command."""
        options = {name: getattr(self, name) for name in _LOAD_OPTIONS}
        return {name: value for name, value in options.items() if value}


def check_source(
    command: Command,
    source: str,
    is_run: bool,
    only_for_runs: Sequence[str],
    only_for_checkpoints: Sequence[str],
) -> None:
    """Raises for an option that is set and that the model, a run or a checkpoint, does not have."""
    for name in (*only_for_runs, *only_for_checkpoints):
        if getattr(command, name) and (name in only_for_runs) != is_run:
            got, wanted = ("a run", "a checkpoint") if is_run else ("a checkpoint", "a run")
            raise ValueError(f"{option_name(name)}: got {got}, {source}; wanted {wanted}. Leave it out.")


@contextlib.contextmanager
def option_errors() -> Iterator[None]:
    """Errors about arguments of ``runs.load_...`` name the options of the command line."""
    try:
        yield
    except ValueError as error:
        found = re.match(rf"\w+: got ({'|'.join(_LOAD_OPTIONS)})=", str(error))
        if found is None:
            raise
        raise ValueError(f"{option_name(found[1])}: got {str(error)[found.end() :]}") from error
