"""Variants: values that carry behaviour, such as a norm, and the registry of those that files name."""

import abc
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeGuard, TypeVar

__all__ = ["Variant", "find_variants", "is_kind", "problem", "register_variant", "registered", "unregistered"]

C = TypeVar("C", bound="Variant")


class Variant(abc.ABC):  # noqa: B024  - its kinds have the abstract methods
    """Base class of the kinds of variants.

    A kind, such as ``nn.Norm``, is a subclass that declares methods. A variant is a subclass of a kind: a
    frozen dataclass whose fields are hashable, such as ``nn.LayerNorm(eps=1e-5)``.
    """

    any_of: ClassVar[tuple[str, ...]] = ()
    """Methods of a kind with defaults for all of them: a variant that defines none does nothing, an error."""

    def check_config(self, config: Any) -> None:  # noqa: B027  - most variants fit every config
        """Raises a ValueError if the variant does not fit the other fields of a config; by default never.

        ``nn.Config`` calls it for each of its variants, when its sizes have been checked.
        """


_REGISTERED: dict[str, type[Variant]] = {}


def register_variant(cls: type[C]) -> type[C]:
    """Makes a class of variants known by its name to files and to the command line.

    Equivalent to::

        registry[cls.__name__] = cls

    Args:
      cls: a frozen dataclass that subclasses a kind, such as ``nn.Norm``. Nothing registers it but this call:
        the module that defines it must be imported before a file that names it is read.

    Returns:
      ``cls``, so that ``@register_variant`` may decorate it.

    Raises:
      ValueError: ``cls`` is no variant, or another class is registered by its name. The class that a reload
        of the same module makes replaces the old one.
    """
    if not _is_variant(cls):
        raise ValueError(
            f"register_variant: got {cls!r:.80}; wanted a class. Subclass a kind, such as nn.Norm, and pass "
            "the class, not an instance."
        )
    if (fix := problem(cls)) is not None:
        raise ValueError(f"register_variant: got {_place(cls)}; wanted a class of variants.{fix}")
    _check_name("register_variant", cls, _REGISTERED)
    _REGISTERED[cls.__name__] = cls
    return cls


def registered(kind: type, variants: Sequence[type] = ()) -> dict[str, type]:
    """The registered classes of a kind, and those of ``variants``, by name.

    Args:
      kind: such as ``nn.Norm``.
      variants: classes that this call alone knows.

    Returns:
      Classes by name, in the order of their registration.

    Raises:
      ValueError: one of ``variants`` is no class of variants, or has the name of another class.
    """
    found: dict[str, type] = dict(_REGISTERED)
    for cls in variants:
        if not _is_variant(cls) or problem(cls) is not None:
            raise ValueError(
                f"variants: got {cls!r:.80}; wanted classes of variants. Pass frozen dataclasses that "
                "subclass a kind, such as nn.Norm."
            )
        _check_name("variants", cls, found)
        found[cls.__name__] = cls
    return {name: cls for name, cls in found.items() if issubclass(cls, kind)}


def unregistered(name: str) -> str:
    """How to fix a name that no registered class has."""
    return (
        f"No class is registered by the name {name!r}: import its module and call "
        f"nn.register_variant({name}), or load_run(directory, variants=[{name}])."
    )


def is_kind(annotation: object) -> TypeGuard[type[Variant]]:
    """Whether an annotation is a kind, such as ``nn.Norm``, not one of its variants."""
    return _is_variant(annotation) and not dataclasses.is_dataclass(annotation)


def problem(value: object) -> str | None:
    """Why a variant or its class cannot be used, as the fix that an error ends with; None if it can."""
    cls = value if inspect.isclass(value) else type(value)
    if Variant in cls.__bases__:
        return f" {cls.__name__} is a kind. Subclass it, or use one of its variants."
    params = vars(cls).get("__dataclass_params__")
    if params is None or not params.frozen or not params.eq:
        return f" Decorate {cls.__name__} with @dataclass(frozen=True)."
    if inspect.isabstract(cls):
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        return f" Define {', '.join(missing)} in {cls.__name__}."
    if names := _any_of(cls):
        return f" Define {' or '.join(names)} in {cls.__name__}: it does nothing."
    if cls is value:
        return None
    try:
        hash(value)
    except TypeError as error:
        return f" The fields of {cls.__name__} must be hashable, such as numbers and tuples: {error}."
    return None


def find_variants(value: object) -> Iterator[Variant]:
    """The variants in the fields of a dataclass, and those in theirs."""
    if isinstance(value, tuple):
        for item in value:
            yield from find_variants(item)
    if not dataclasses.is_dataclass(value) or inspect.isclass(value):
        return
    if isinstance(value, Variant):
        yield value
    for field in dataclasses.fields(value):
        yield from find_variants(getattr(value, field.name))


def _is_variant(cls: object) -> TypeGuard[type[Variant]]:
    return inspect.isclass(cls) and issubclass(cls, Variant)


def _any_of(cls: type) -> tuple[str, ...]:
    """The methods of ``any_of`` where a class leaves all of them as its kind has them."""
    kind = next((x for x in cls.__mro__ if Variant in x.__bases__ and issubclass(x, Variant)), Variant)
    return kind.any_of if all(getattr(cls, name) is getattr(kind, name) for name in kind.any_of) else ()


def _check_name(function: str, cls: type, known: Mapping[str, type]) -> None:
    other = known.get(cls.__name__)
    if other is not None and _place(other) != _place(cls):
        raise ValueError(
            f"{function}: got {_place(cls)}; wanted another name than that of {_place(other)}. Rename the "
            "class: files name variants by their class."
        )


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
