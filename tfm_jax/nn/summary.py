"""Summary of a model: a table of its parameters by module."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from flax import nnx

from tfm_jax.nn.functional import Parameter, Pure, parameters_of

__all__ = ["Summary", "summary"]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The parameters of a model; ``str`` makes a table of them.

    Args:
      parameters: each with its path, module, shape, dtype and axes.
    """

    parameters: tuple[Parameter, ...]

    @property
    def n_params(self) -> int:
        """The number of parameters, each element of an array counted."""
        return sum(map(_count, self.parameters))

    @property
    def n_active_params(self) -> int:
        """The number of parameters that one token meets: k of E experts, and all others."""
        return round(sum(_count(parameter) * parameter.active for parameter in self.parameters))

    @property
    def n_bytes(self) -> int:
        """The memory of the parameters in bytes."""
        return sum(map(_bytes, self.parameters))

    def __str__(self) -> str:
        lines = list(_lines(self.parameters, depth=0))
        head = ("module or parameter", "axes", "dtype", "parameters", "memory")
        total = ("total", "", "", f"{self.n_params:,}", _memory(self.n_bytes))
        totals: list[tuple[str, ...]] = [total]
        if self.n_active_params != self.n_params:
            totals.append(("active, of one token", "", "", f"{self.n_active_params:,}", ""))
        table = [head, *lines, *totals]
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        rows = [_row(line, widths).rstrip() for line in table]
        n = len(totals)
        return "\n".join([rows[0], rule, *rows[1:-n], rule, *rows[-n:]])


def summary(model: Pure[nnx.Module]) -> Summary:
    """The parameters of a model: their axes, shapes, counts and memory, without computing them.

    Equivalent to::

        shapes = jax.eval_shape(model.init, jax.random.key(0))
        n_params = sum(x.size for x in jax.tree.leaves(shapes))
        n_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

    Args:
      model: from ``functionalize``.

    Returns:
      A ``Summary``, to ``print``. An axis without a letter, of a module that declares none, is shown by its
      size alone.

    Raises:
      ValueError: a module declares axes that its parameters do not have.
    """
    return Summary(tuple(parameters_of(model)))


_Line = tuple[str, str, str, str, str]


def _lines(parameters: Sequence[Parameter], depth: int) -> Iterator[_Line]:
    """The lines of a module: its own, then those of what it contains, in the order of the parameters."""
    first, margin = parameters[0], "  " * depth
    if len(parameters) == 1 and depth:
        axes = first.axes.split() if first.axes is not None else [""] * len(first.shape)
        yield (
            margin + "/".join(map(str, first.path[depth - 1 :])),
            " ".join(f"{a}={n}" if a else str(n) for a, n in zip(axes, first.shape, strict=True)),
            str(first.dtype),
            f"{_count(first):,}",
            _memory(_bytes(first)),
        )
        return
    name = f"{first.path[depth - 1]}: " if depth else ""
    yield (
        f"{margin}{name}{first.modules[depth]}",
        "",
        "",
        f"{sum(map(_count, parameters)):,}",
        _memory(sum(map(_bytes, parameters))),
    )
    groups: dict[str | int, list[Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.path[depth], []).append(parameter)
    for group in groups.values():
        yield from _lines(group, depth + 1)


def _count(parameter: Parameter) -> int:
    return math.prod(parameter.shape)


def _bytes(parameter: Parameter) -> int:
    return _count(parameter) * parameter.dtype.itemsize


def _memory(n_bytes: int) -> str:
    """Bytes in the largest unit of which there is at least one."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _row(line: _Line, widths: Sequence[int]) -> str:
    name, axes, dtype, *numbers = line
    left = [text.ljust(width) for text, width in zip((name, axes, dtype), widths, strict=False)]
    right = [text.rjust(width) for text, width in zip(numbers, widths[3:], strict=True)]
    return "  ".join([*left, *right])
