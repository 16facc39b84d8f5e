"""Modules as pure functions: ``functionalize(module, config) -> Pure``."""

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_key
from tfm_jax.nn.config import Config
from tfm_jax.types import Key, Params

__all__ = ["Pure", "check_params", "functionalize", "parameters_of", "skeleton_of"]

M_co = TypeVar("M_co", bound=nnx.Module, covariant=True)
Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, eq=False)
class _Constructor(Generic[M_co]):
    """A module class with its arguments. Equal ones have equal arguments of the same types.

    One with an argument that is not hashable equals only itself.
    """

    module: Callable[..., M_co]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def __call__(self, rngs: nnx.Rngs) -> M_co:
        return self.module(*self.args, **self.kwargs, rngs=rngs)

    @functools.cached_property
    def structure(self) -> tuple[nnx.GraphDef, Params]:
        """The graph of the module and the shapes of its parameters, without computing them."""
        graph, shapes = nnx.split(nnx.eval_shape(lambda: self(nnx.Rngs(0))), graph=False)
        return graph, nnx.to_pure_dict(shapes)

    def bind(self, params: Params) -> M_co:
        graph, wanted = self.structure
        check_params(params, wanted)
        return nnx.merge(graph, jax.tree.map(jnp.asarray, params))  # NumPy arrays too, as read from a file

    @functools.cached_property
    def skeleton(self) -> M_co:
        """The module with shapes as parameters, for what does not depend on their values."""
        with jax.ensure_compile_time_eval():  # the module outlives a trace that it is first made in
            return nnx.merge(*self.structure)

    @functools.cached_property
    def _identity(self) -> tuple[int, Hashable]:
        """A hash, computed once, and what equal ones have in common."""
        named = sorted(self.kwargs.items())
        # 1 == 1.0 == True, but a module may distinguish them.
        identity = self.module, *((type(x), x) for x in self.args), *((k, type(x), x) for k, x in named)
        try:
            return hash(identity), identity
        except TypeError:
            return id(self), id(self)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Constructor) and self._identity == other._identity)

    def __hash__(self) -> int:
        return self._identity[0]

    def __reduce__(self) -> tuple[object, ...]:
        return _Constructor, (self.module, self.args, self.kwargs)  # hashes of strings differ by process


@dataclasses.dataclass(frozen=True)
class _Init:
    """``init(key) -> params``. Equal ones hash equal, for the caches of jit."""

    __name__ = "init"  # of the compiled program
    constructor: _Constructor[nnx.Module]

    def __call__(self, key: Key) -> Params:
        """The initial parameters, a nested dict of arrays, from a PRNG key."""
        return nnx.to_pure_dict(nnx.split(self.constructor(nnx.Rngs(as_key("init", key))), graph=False)[1])


@dataclasses.dataclass(frozen=True)
class _Apply:
    """``apply(params, *inputs) -> output``. Equal ones hash equal, for the caches of jit."""

    __name__ = "apply"
    constructor: _Constructor[nnx.Module]

    def __call__(self, params: Params, *inputs: object, **options: object) -> Any:
        """Calls the module with these parameters."""
        module: Callable[..., Any] = self.constructor.bind(params)
        return module(*inputs, **options)


@dataclasses.dataclass(frozen=True, repr=False)
class Pure(Generic[M_co]):
    """A model as pure functions over a plain dict of arrays; from ``functionalize``.

    Models are equal, and hash equal, if their module classes and arguments are equal: ``jax.jit`` compiles
    once for all of them, also as a static argument. A model with an argument that is not hashable equals only
    itself. A model can be pickled and copied.

    Args:
      init: ``init(key) -> params``, from a PRNG key.
      apply: ``apply(params, *inputs, **options) -> output``, which calls the module.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]
    _constructor: _Constructor[M_co]

    @property
    def module(self) -> Callable[..., M_co]:
        """The module class."""
        return self._constructor.module

    @property
    def config(self) -> Config:
        """The ``Config`` among the arguments of the module.

        Raises:
          AttributeError: no argument is a ``Config``.
        """
        for value in (*self._constructor.args, *self._constructor.kwargs.values()):
            if isinstance(value, Config):
                return value
        raise AttributeError(
            f"Pure.config: got {self} without a Config among its arguments; wanted one. Read its settings "
            "from the module."
        )

    def bind(self, params: Params) -> M_co:
        """The module with these parameters, for its other methods: ``model.bind(params).encode(source)``.

        Raises:
          ValueError: the parameters do not match the model. The message names those that are missing, unknown
            or of another shape.
        """
        return self._constructor.bind(params)

    def axes(self) -> Params:
        """The axes of the parameters, a tree like ``init(key)`` with strings such as ``"L D N H"``.

        Each module declares those of its own parameters, in the letters of ``tfm_jax.types``. A module of
        yours does so with a method::

            def axes(self):
                return {"kernel": "D F", "bias": "F"}

        Letters of an attribute that is a module, such as ``{"layers": "L"}``, precede those of all parameters
        in it: the layers of a stack. A parameter that no module declares has a ``?`` for each axis, as in
        ``"? ?"``: no rule shards it, so it is replicated.

        Raises:
          ValueError: a parameter is declared with another number of axes than it has; a declared attribute
            does not exist.
        """
        found = {
            parameter.path: " ".join("?" * len(parameter.shape)) if parameter.axes is None else parameter.axes
            for parameter in parameters_of(self)
        }
        _, shapes = self._constructor.structure
        return jax.tree_util.tree_map_with_path(lambda path, _: found[tuple(k.key for k in path)], shapes)

    def __repr__(self) -> str:
        constructor = self._constructor
        named = [f"{name}={value!r}" for name, value in constructor.kwargs.items()]
        name = getattr(constructor.module, "__name__", repr(constructor.module))
        arguments = ", ".join([name, *map(repr, constructor.args), *named])
        return f"functionalize({arguments})"

    def __hash__(self) -> int:
        return hash(self._constructor)

    def __reduce__(self) -> tuple[object, ...]:
        constructor = self._constructor
        return _make_pure, (constructor.module, constructor.args, constructor.kwargs)


_ALIVE: weakref.WeakValueDictionary[object, Pure[Any]] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()
"""For ``_ALIVE``: two threads get the same model."""


def _make_pure(
    module: Callable[..., M_co], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Pure[M_co]:
    """The model with these arguments that is alive, else a new one.

    jit keeps a program only as long as the function that it was first compiled for: equal models share it.
    """
    constructor = _Constructor(module, args, kwargs)
    model = _ALIVE.get(constructor)
    if model is None:
        constructor.structure  # noqa: B018  raises for arguments that do not fit
        with _LOCK:
            model = _ALIVE.setdefault(constructor, Pure(_Init(constructor), _Apply(constructor), constructor))
    return model


def functionalize(module: Callable[..., M_co], *args: object, **kwargs: object) -> Pure[M_co]:
    """Turns a module class and its arguments into pure functions.

    Equivalent to::

        init = lambda key: parameters_of(module(*args, **kwargs, rngs=nnx.Rngs(key)))
        bind = lambda params: module_with(params)
        apply = lambda params, *inputs: bind(params)(*inputs)

    All work under ``jit``, ``grad``, ``vmap``, ``shard_map`` and ``pmap``. The parameters are a nested dict
    of arrays of dtype ``config.param_dtype``; those of the layers are stacked on their first axis.

    Args:
      module: an NNX module class, such as ``nn.EncoderDecoder``.
      *args, **kwargs: its constructor arguments, except ``rngs``.

    Returns:
      A ``Pure``; an equal one for equal arguments.

    Raises:
      ValueError: from the module: the arguments do not fit together.
    """
    return _make_pure(module, args, kwargs)


class Parameter(NamedTuple):
    """A parameter of a model: where it is, its module, and its axes if they are declared."""

    path: tuple[str | int, ...]
    modules: tuple[str, ...]  # the class names of what holds each element of the path, the model first
    owner: str  # the class name of its module
    name: str  # the attribute of its module
    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: str | None
    active: float = 1.0  # the share of it that a token meets, such as k / E of the experts

    def __str__(self) -> str:
        return f"{'/'.join(map(str, self.path))} {self.dtype}{list(self.shape)} of {self.owner}"


def parameters_of(model: Pure[nnx.Module]) -> list[Parameter]:
    """The parameters of a model in the order of its tree, without computing them.

    Raises:
      ValueError: a module declares axes that its parameters do not have.
    """
    constructor = model._constructor
    return list(_parameters(constructor.skeleton, constructor.structure[1], _Position()))


def skeleton_of(model: Pure[M_co]) -> M_co:
    """The module of a model with shapes as parameters, for its settings and methods that compute nothing."""
    return model._constructor.skeleton


class _Position(NamedTuple):
    path: tuple[str | int, ...] = ()
    modules: tuple[str, ...] = ()
    owner: str = ""
    name: str = ""  # of the attribute that holds the node
    letters: str | None = None  # which its module declared for this attribute
    prefix: str = ""  # letters of the modules above
    active: float = 1.0


def _parameters(node: object, tree: Params | Shape, position: _Position) -> Iterator[Parameter]:
    path, modules, owner, name, letters, prefix, active = position
    if not isinstance(tree, Mapping):
        axes = None if letters is None else f"{prefix} {letters}".strip()
        parameter = Parameter(path, modules, owner, name, tree.shape, jnp.dtype(tree.dtype), axes, active)
        if axes is not None and len(axes.split()) != len(tree.shape):
            raise ValueError(
                f"Pure.axes: got axes {axes!r} for parameter {parameter}; wanted a letter for each of its "
                f"{len(tree.shape)} axes. Correct the method axes of {parameter.owner}."
            )
        yield parameter
        return
    modules = *modules, type(node).__name__
    if isinstance(node, Sequence | Mapping):  # nnx.List, nnx.Dict: the letters of the attribute are for each
        inside = position._replace(modules=modules)
        for key, branch in tree.items():
            yield from _parameters(_child(node, key), branch, inside._replace(path=(*path, key)))
        return
    declared, active = _declared_axes(node), _declared_active(node)
    prefix = f"{prefix} {letters or ''}".strip()
    for key, branch in tree.items():
        below = _Position((*path, key), modules, modules[-1], key, declared.get(key), prefix)
        below = below._replace(active=active.get(key, 1.0))
        yield from _parameters(_child(node, key), branch, below)


def _child(node: object, key: str | int) -> object:
    """An attribute of a module, or an element of an nnx.List or nnx.Dict."""
    if isinstance(node, Mapping):
        return node[key]
    return node[key] if isinstance(node, Sequence) and isinstance(key, int) else getattr(node, str(key))


def _declared_axes(module: object) -> Mapping[str, str]:
    """The axes that a module declares; none without a method ``axes``."""
    declare: Callable[[], Mapping[str, str]] | None = getattr(module, "axes", None)
    declared = declare() if callable(declare) else {}
    if unknown := [name for name in declared if not hasattr(module, name)]:
        raise ValueError(
            f"Pure.axes: got axes of {', '.join(unknown)} from {type(module).__name__}; wanted names of its "
            f"attributes. Correct its method axes."
        )
    return declared


def _declared_active(module: object) -> Mapping[str, float]:
    """The share of parameters that a token meets, where a module declares it: see ``variants``."""
    declare: Callable[[], Mapping[str, float]] | None = getattr(module, "active", None)
    return declare() if callable(declare) else {}


def check_params(params: Params, wanted: Params) -> None:
    """Raises a ValueError that names the parameters that are missing, unknown or of another shape."""

    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}

    got, want = shapes(params), shapes(wanted)
    if got == want:
        return
    wrong = [f"{name}: missing, wanted {want[name]}" for name in want.keys() - got.keys()]
    wrong += [f"{name}: unknown, got {got[name]}" for name in got.keys() - want.keys()]
    wrong += [
        f"{name}: got {got[name]}, wanted {want[name]}"
        for name in want.keys() & got.keys()
        if want[name] != got[name]
    ]
    raise ValueError(
        "params: got those of another model; wanted those of init. Differences: "
        + "; ".join(sorted(wrong))
        + "."
    )
