"""Command-line options: what ``--help`` shows, and numbers in their declared `Range`."""

import contextlib
import dataclasses
import types
import typing
from typing import Annotated, TypeVar

import tyro

from tfm_jax.fields import option_name, range_of
from tfm_jax.ranges import Range

__all__ = ["Command", "number_rule", "optional", "read_numbers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand of ``tfm``; its subclasses are dataclasses of options."""

    compilation_cache: Annotated[str, tyro.conf.arg(metavar="DIR|off")] = "auto"
    """Directory of compiled programs, which later commands load; off compiles again. auto: tfm_jax/compiled
    in the user's cache directory, unless JAX_COMPILATION_CACHE_DIR is set."""

    def check(self) -> None:
        """Checks options and files before anything is loaded.

        Raises:
          ValueError: options that do not fit together.
          OSError: a file that cannot be read or written.
        """

    def run(self) -> int:
        """Runs the command; returns the exit status."""
        raise NotImplementedError


CommandT = TypeVar("CommandT", bound=Command)


def optional(metavar: str, default: str = "none") -> object:
    """Marks an option with a default of None; ``default`` is what ``--help`` shows for it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def number_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Keeps the string of a numeric option for `read_numbers`: errors of tyro do not name the range."""
    is_union = info.type_origin in (typing.Union, types.UnionType)
    members = typing.get_args(info.type) if is_union else (info.type,)
    if not {int, float} & set(map(_without_marks, members)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _without_marks(hint: object) -> object:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def read_numbers(command: CommandT) -> CommandT:
    """Converts the strings of numeric options to numbers.

    Raises:
      ValueError: names the first option that is out of range, and the range.
    """
    numbers: dict[str, int | float] = {}
    for name, hint in typing.get_type_hints(type(command), include_extras=True).items():
        text, wanted = getattr(command, name, None), range_of(hint)
        if wanted is not None and isinstance(text, str):
            numbers[name] = _read_number(option_name(name), text, wanted)
    return dataclasses.replace(command, **numbers)


def _read_number(option: str, text: str, wanted: Range) -> int | float:
    with contextlib.suppress(ValueError):
        if (value := (int if wanted.integral else float)(text)) in wanted:
            return value
    raise ValueError(f"{option}: got {text}; wanted {wanted.wanted}.")
