"""Checks of the arguments of public functions; each error names the function and the argument."""

import functools
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array, Key

__all__ = ["Declared", "as_array", "as_key", "as_optional_array", "as_texts", "check_shapes", "iter_texts"]

T = TypeVar("T")

_INT32 = np.iinfo(np.int32)
_KINDS = {"float": jnp.floating, "int": jnp.integer, "bool": np.dtype(bool)}
_AXIS = re.compile(r"(?P<name>[A-Z][a-z]*)(?P<one>\|1)?|(?P<size>\d+)")

Size = Any
"""A size of an axis: an int, or a symbol of ``jax.export``, which is no int."""
Sizes = tuple[Size, ...]
DType = np.dtype | type | str
"""A dtype, or the name of a kind of dtypes: "float", "int" or "bool"."""
Declared = tuple[object, str] | tuple[object, str, DType]
"""An argument, its axes and perhaps its dtype."""


def check_shapes(
    function: str,
    named: Mapping[str, Declared] | None = None,
    /,
    *,
    sizes: Mapping[str, Size | Sizes] | None = None,
    fix: str | Mapping[str, str] = "",
    **arguments: Declared,
) -> None:
    """Checks shapes and dtypes of arguments, which are declared in axis letters.

    Equivalent to::

        *batch, T, N, H = q.shape
        S, K = k.shape[-3:-1]
        chex.assert_shape([q, k], [(*batch, T, N, H), (*batch, S, K, H)])
        chex.assert_type([q, k], [jnp.floating, q.dtype])

    for ``check_shapes("attention", q=(q, "... T N H", "float"), k=(k, "... S K H", q.dtype))``, but with an
    error that names the function and its arguments. It reads no values, so it works while tracing too.
    chex asserts once for equal shapes and dtypes; a later call looks them up (2 to 4 microseconds).
    ``chex.disable_asserts()`` turns it off.

    Args:
      function: name of the public function, such as "attention".
      named: arguments by names that are not known before.
      sizes: sizes that are known before, by name; a tuple for ``...``.
      fix: how to fix it, in one or more sentences; or such texts by what does not fit: the name of the
        argument, or else the axis (``H``, ``...``), "rank" or "dtype".
      arguments: by name, ``(array, axes)`` or ``(array, axes, dtype)``. An array may also be a tracer, a
        ``jax.ShapeDtypeStruct`` or a number; None, an optional argument that was not passed, is skipped.

        The axes are separated by spaces:

        - ``T`` or ``Hv``: a letter, perhaps with small ones. It has one size in all arguments.
        - ``T|1``: of that size or 1; another axis, without the ``|1``, or ``sizes`` has the size.
        - ``4``: of that size.
        - ``...``, at the front: any number of leading axes, the same in all arguments.
        - ``...|1``: no leading axes, or as many as ``...`` has, each equal to its or 1.
        - ``*...``: leading axes that broadcast to ``...``, as in NumPy; if no argument has ``...``, with each
          other.

        The dtype is "float", "int", "bool" or one dtype; without it, any will do.

    Raises:
      ValueError: an argument does not fit, at trace time; or the axes are not of this form.
    """
    if named:
        arguments |= named
    checked = [x for x in arguments.values() if x[0] is not None]
    sizes = sizes or {}
    try:
        structs = _as_structs(checked, sizes)
        if structs is None or not _assert_once(structs, tuple(sizes.items())):
            _assert(checked, sizes)
    except (AssertionError, TypeError):  # NumPy has no dtype of PRNG keys
        bound = _bind([_parse(x[1]) for x in checked], [_shape(x[0]) for x in checked], sizes)
        raise ValueError(_message(function, arguments, bound, fix)) from None


class _Struct(NamedTuple):
    """What the assertions read of an array."""

    shape: Sizes
    dtype: object


def _as_structs(
    checked: Sequence[Declared], sizes: Mapping[str, Size | Sizes]
) -> tuple[Declared, ...] | None:
    """The arguments as values that can be hashed; None if there are numbers or symbolic sizes among them."""
    structs, ints = [], []
    for x in checked:
        dtype = getattr(x[0], "dtype", None)
        if dtype is None:
            return None
        shape = _shape(x[0])
        structs.append((_Struct(shape, dtype), *x[1:]))
        ints += shape
    for size in sizes.values():
        ints += size if isinstance(size, tuple) else (size,)
    return tuple(structs) if {*map(type, ints)} <= {int} else None


@functools.lru_cache(maxsize=4096)
def _assert_once(structs: tuple[Declared, ...], sizes: tuple[tuple[str, Size | Sizes], ...]) -> bool:
    """``_assert``, once for equal arguments that pass; False where chex's assertions are off."""
    _assert(structs, dict(sizes))
    try:
        chex.assert_shape(0, (1,))
    except AssertionError:
        return True
    return False


def _assert(checked: Sequence[Declared], sizes: Mapping[str, Size | Sizes]) -> None:
    arrays = [x[0] for x in checked]
    specs = [_parse(x[1]) for x in checked]
    shapes = [_shape(x) for x in arrays]
    bound = _bind(specs, shapes, sizes)
    chex.assert_shape(arrays, [_pattern(*x, bound) for x in zip(specs, shapes, strict=True)])
    typed = [x for x in checked if len(x) == 3]
    if typed:
        chex.assert_type([x[0] for x in typed], [_dtype(x[2]) for x in typed])


class _Argument(NamedTuple):
    name: str
    array: object
    axes: str
    dtype: DType | None = None


class _Spec(NamedTuple):
    """The axes of an argument."""

    lead: str
    """"...", "...|1", "*..." or "", for none."""
    axes: tuple[tuple[str | int, bool], ...]
    """Name or size of the others, and whether they may be 1."""
    names: tuple[tuple[int, str], ...]
    """Index, from the right, and name of those that have a name and may not be 1."""


@functools.cache
def _parse(text: str) -> _Spec:
    words = text.split()
    lead = words.pop(0) if words and words[0] in ("...", "...|1", "*...") else ""
    axes = []
    for word in words:
        match = _AXIS.fullmatch(word)
        if match is None:
            raise ValueError(
                f"check_shapes: got axes {text!r}; wanted letters such as T, Hv or T|1 and sizes such as 4, "
                "separated by spaces, after ..., ...|1, *... or none of them."
            )
        axes.append((match["name"] or int(match["size"]), match["one"] is not None))
    names = [(i - len(axes), x) for i, (x, one) in enumerate(axes) if isinstance(x, str) and not one]
    return _Spec(lead, tuple(axes), tuple(names))


def _shape(x: object) -> Sizes:
    return getattr(x, "shape", ())


def _dtype(dtype: DType) -> object:
    return _KINDS[dtype] if isinstance(dtype, str) and dtype in _KINDS else dtype


def _count_leading(spec: _Spec, shape: Sizes) -> int | None:
    """The number of leading axes; None where the rank does not fit."""
    n_lead = len(shape) - len(spec.axes)
    return None if n_lead < 0 or (n_lead and not spec.lead) else n_lead


def _bind(
    specs: Sequence[_Spec], shapes: Sequence[Sizes], sizes: Mapping[str, Size | Sizes]
) -> dict[str, Size | Sizes]:
    """The size of each name, and the leading sizes as "...": those of the first argument that has them."""
    bound, broadcast = dict(sizes), []
    for spec, shape in zip(specs, shapes, strict=True):
        n_lead = _count_leading(spec, shape)
        if n_lead is None:
            continue
        if spec.lead == "...":
            bound.setdefault("...", shape[:n_lead])
        elif spec.lead == "*...":
            broadcast.append(shape[:n_lead])
        for i, name in spec.names:
            bound.setdefault(name, shape[i])
    if broadcast and "..." not in bound:
        bound["..."] = functools.reduce(_broadcast, broadcast)
    return bound


def _broadcast(a: Sizes, b: Sizes) -> Sizes:
    """The sizes that both broadcast to; where they differ, those of the first."""
    rank = max(len(a), len(b))
    a, b = ((1,) * (rank - len(x)) + x for x in (a, b))
    return tuple(m if n == 1 else n if m == 1 else m for m, n in zip(a, b, strict=True))


def _pattern(spec: _Spec, shape: Sizes, bound: Mapping[str, Size | Sizes]) -> Sizes:
    """The shape that is wanted, as ``chex.assert_shape`` takes it."""
    last = [bound.get(axis) if isinstance(axis, str) else axis for axis, _ in spec.axes]
    if len(spec.names) < len(last):
        last = [{1, size} if one else size for size, (_, one) in zip(last, spec.axes, strict=True)]
    return (*_leading_pattern(spec, len(shape) - len(last), bound.get("...")), *last)


def _leading_pattern(spec: _Spec, n_lead: int, lead: Sizes | None) -> Sizes:
    if not spec.lead or (spec.lead != "..." and n_lead <= 0):
        return ()
    if lead is None:
        return (...,)
    if spec.lead == "...":
        return lead
    if spec.lead == "*...":
        lead = lead[max(0, len(lead) - n_lead) :]
    return tuple({1, size} for size in lead)


def _message(
    function: str,
    arguments: Mapping[str, Declared],
    bound: Mapping[str, Size | Sizes],
    fix: str | Mapping[str, str],
) -> str:
    checked = [
        _Argument(name, x[0], x[1], x[2] if len(x) == 3 else None)
        for name, x in arguments.items()
        if x[0] is not None
    ]
    got = ", ".join(f"{x.name} {_show(x.array)}" for x in checked)
    wanted = ", ".join(f"{x.name} {_show_wanted(x)}" for x in checked)
    argument, axis, problem = next(filter(None, (_problem(x, bound) for x in checked)))
    text = fix if isinstance(fix, str) else fix.get(argument) or fix.get(axis, "")
    if axis == "dtype" and not text:
        text = f"Cast {argument} first."
    return f"{function}: got {got}; wanted {wanted}, but {problem}. {text}".rstrip()


def _problem(x: _Argument, bound: Mapping[str, Size | Sizes]) -> tuple[str, str, str] | None:
    """The argument, the axis, "rank" or "dtype", and what is wrong there; None where the argument fits."""
    spec, shape = _parse(x.axes), _shape(x.array)
    n_lead, pattern = _count_leading(spec, shape), _pattern(spec, shape, bound)
    if n_lead is None:
        least = " or more" if spec.lead else ""
        return x.name, "rank", f"{x.name} has rank {len(shape)}, not {len(spec.axes)}{least}"
    lead, last = shape[:n_lead], shape[n_lead:]
    wanted = pattern[: len(pattern) - len(last)]
    if wanted != (...,) and not (len(lead) == len(wanted) and all(map(_fits, lead, wanted))):
        return x.name, "...", f"{x.name} has [...] = {_brackets(lead)}, not {_brackets(bound['...'])}"
    for (name, _), size, want in zip(spec.axes, last, pattern[len(wanted) :], strict=True):
        if not _fits(size, want):
            axis = f"{name} = {size}" if isinstance(name, str) else str(size)
            return x.name, str(name), f"{x.name} has {axis}, not {bound.get(str(name), name)}"
    if x.dtype is not None and not _has_dtype(x.array, x.dtype):
        return x.name, "dtype", f"{x.name} has dtype {getattr(x.array, 'dtype', type(x.array).__name__)}"
    return None


def _fits(size: Size, wanted: Size | set[Size] | None) -> bool:
    return wanted is None or (size in wanted if isinstance(wanted, set) else size == wanted)


def _has_dtype(x: object, dtype: DType) -> bool:
    try:
        chex.assert_type(x, _dtype(dtype))
    except (AssertionError, TypeError):
        return False
    return True


def _show(x: object) -> str:
    dtype = getattr(x, "dtype", None)
    return reprlib.repr(x) if dtype is None else f"{dtype}{_brackets(_shape(x))}"


def _show_wanted(x: _Argument) -> str:
    kind = "" if x.dtype is None else x.dtype if isinstance(x.dtype, str) else getattr(x.dtype, "name", "")
    if isinstance(x.dtype, type):
        kind = np.dtype(x.dtype).name
    words = x.axes.split()
    if words and words[0] == "...|1":
        return f"{kind}{_brackets(words[1:])} or {_brackets(words)}"
    return kind + _brackets(words)


def _brackets(sizes: Iterable[object]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def as_array(function: str, name: str, x: object) -> Array:
    """Converts a NumPy or JAX array to a JAX array; anything else is an error.

    Equivalent to::

        jnp.asarray(x)

    Args:
      function: name of the public function, such as "layer_norm".
      name: of the argument.
      x: the argument. A tracer and a ``jax.ShapeDtypeStruct`` are returned as they are.

    Returns:
      The array. 64-bit integers become int32, unless ``jax_enable_x64`` is set.

    Raises:
      ValueError: x is not an array, such as a list; its dtype is not numeric; or an integer overflows int32.
    """
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return x  # pyright: ignore[reportReturnType]  # a struct is an array to those who read no values
    convert = getattr(x, "__jax_array__", None)
    if convert is not None:  # such as an nnx.Param
        return convert()
    if not isinstance(x, np.ndarray | np.generic):
        raise ValueError(
            f"{function}: got {name}={reprlib.repr(x)}, a {type(x).__name__}; wanted an array. "
            f"Convert it with jnp.asarray({name})."
        )
    try:
        array = jnp.asarray(x)
    except TypeError as error:
        raise ValueError(
            f"{function}: got {name} of dtype {x.dtype}; wanted an array of numbers. Convert it first."
        ) from error
    if x.dtype != array.dtype and x.dtype.kind in "iu" and x.size:
        low, high = int(x.min()), int(x.max())
        if low < _INT32.min or high > _INT32.max:
            raise ValueError(
                f"{function}: got {name} with {low if low < _INT32.min else high}; wanted integers within "
                "int32, the integer type of JAX."
            )
    return array


def as_optional_array(function: str, name: str, x: object) -> Array | None:
    """``as_array`` for an argument that may be None, which stays None.

    Equivalent to::

        None if x is None else as_array(function, name, x)
    """
    return None if x is None else as_array(function, name, x)


def as_key(function: str, key: Key, *, batched: bool = False, name: str = "key") -> Key:
    """Converts a PRNG key to the typed form of ``jax.random.key``.

    Equivalent to::

        key                                     # from jax.random.key(0)
        jax.random.wrap_key_data(key)           # from jax.random.PRNGKey(0), uint32 [2]

    Args:
      function: name of the public function, such as "dropout".
      key: either form. The last axis of uint32 is the data of one key, so uint32 [B, 2] holds B keys.
      batched: whether leading dims are allowed, for one key per sequence.
      name: of the argument.

    Returns:
      The key, or the keys [...]. Both forms give the same random numbers.

    Raises:
      ValueError: it is not a key, or is a batch of keys where one is wanted.
    """
    dtype, keys = getattr(key, "dtype", None), key
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        try:
            keys = jax.random.wrap_key_data(jnp.asarray(key)) if dtype == np.uint32 else None
        except (TypeError, ValueError):  # not the key size of the default implementation
            keys = None
    if keys is None:
        got = reprlib.repr(key) if dtype is None else f"{dtype}{list(key.shape)}"
        raise ValueError(f"{function}: got {name}={got}; wanted a PRNG key. Make one with jax.random.key(0).")
    if keys.ndim and not batched:
        raise ValueError(
            f"{function}: got {name} with keys of shape {list(keys.shape)}; wanted one key. Index it, or map "
            "over it with jax.vmap."
        )
    return keys


def iter_texts(function: str, name: str, texts: Iterable[T], *, pairs: bool = False) -> Iterator[T]:
    """Iterates over texts, and checks each when it is reached.

    Equivalent to::

        iter(texts)

    Args:
      function: name of the public function, such as "translate".
      name: of the argument.
      texts: an iterable of strings, but not a single string.
      pairs: whether an element may also be a pair of strings.

    Returns:
      The iterator.

    Raises:
      ValueError: ``texts`` is a single string; or an element is not a string, when it is reached. The message
        gives its index.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"{function}: got {name}={reprlib.repr(texts)}, one string; wanted a list of strings. "
            "Pass [text]."
        )

    def is_pair(x: object) -> bool:
        return pairs and isinstance(x, tuple | list) and len(x) == 2 and all(isinstance(s, str) for s in x)

    def checked() -> Iterator[T]:
        for i, text in enumerate(texts):
            if not isinstance(text, str) and not is_pair(text):
                wanted = "a string or a pair of strings" if pairs else "a string"
                raise ValueError(
                    f"{function}: got {name}[{i}]={reprlib.repr(text)}; wanted {wanted}. Convert it, or "
                    "leave it out."
                )
            yield text

    return checked()


def as_texts(function: str, name: str, texts: Iterable[T], *, pairs: bool = False) -> list[T]:
    """A list of checked texts.

    Equivalent to::

        list(iter_texts(function, name, texts))

    Args:
      function, name, texts, pairs: as for ``iter_texts``.

    Returns:
      The list.

    Raises:
      ValueError: as for ``iter_texts``.
    """
    return list(iter_texts(function, name, texts, pairs=pairs))
