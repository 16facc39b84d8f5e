"""The structure of a pytree includes its class: ``jit`` never runs a program compiled for another class."""

import dataclasses
import importlib
import inspect
import itertools
import pkgutil

import jax
import jax.export
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfm_jax
from tfm_jax import generate, pytrees


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Line:
    slope: object
    name: str = pytrees.static()
    start: object = 0


def all_pytrees():
    """An instance of every pytree dataclass of the package, with 1 in each field."""
    for module in pkgutil.walk_packages(tfm_jax.__path__, "tfm_jax."):
        if module.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            is_local = isinstance(cls, type) and cls.__module__ == module.name
            if is_local and dataclasses.is_dataclass(cls) and not inspect.isabstract(cls):
                instance = object.__new__(cls)
                for field in dataclasses.fields(cls):
                    object.__setattr__(instance, field.name, 1)
                if not jax.tree_util.all_leaves([instance]):
                    yield instance


def test_structures_of_different_classes_differ():
    instances = list(all_pytrees())
    names = {type(x).__name__ for x in instances}
    assert {"And", "Or", "Window", "Padding", "TopP", "MinP", "Slots", "TrainState", "SuppressFrom"} <= names
    for x, y in itertools.combinations(instances, 2):
        assert jax.tree.structure(x) != jax.tree.structure(y), f"{type(x)} has the structure of {type(y)}"


def test_names_of_classes_differ():
    """An exported function names a class without its module: of two with one name, only the first has it."""
    classes = {type(x) for x in all_pytrees() if type(x).__module__.startswith("tfm_jax.")}
    names = sorted(cls.__qualname__ for cls in classes)
    assert len(names) >= 20 and len(names) == len(set(names)), names


def test_jit_compiles_one_program_per_class():
    # Enough classes that equal structures would collide in the hash table of jit's programs.
    classes = [
        pytrees.register(dataclasses.make_dataclass(f"Value{i}", ["x"], namespace={"i": i}))
        for i in range(50)
    ]
    scaled = jax.jit(lambda value: value.x * value.i)
    for cls in classes:
        assert scaled(cls(jnp.float32(2))) == 2 * cls.i


@given(st.integers(), st.text(max_size=3), st.integers())
def test_unflatten_inverts_flatten(slope, name, start):
    line = Line(slope, name, start)
    leaves, structure = jax.tree.flatten(line)
    assert leaves == [slope, start]
    assert jax.tree.unflatten(structure, leaves) == line
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(line)]
    assert paths == [".slope", ".start"]
    assert jax.tree.structure(Line(slope, name + "'", start)) != structure
    assert jax.tree.structure(Line((slope,), name, start)) != structure


def test_register_rejects_other_classes_and_registered_ones():
    with pytest.raises(TypeError, match="dataclass"):
        pytrees.register(int)
    with pytest.raises(ValueError, match="Line"):
        pytrees.register(Line)


def exported(value):
    """A function that returns the leaves of such a value, exported, serialized and deserialized."""
    leaves = jax.jit(lambda value: jax.tree.leaves(value))
    return jax.export.deserialize(jax.export.export(leaves)(value).serialize())


def accepts_ones(value):
    """Whether the class accepts 1 in each field."""
    try:
        return jax.tree.map(lambda x: x, value) is not None
    except ValueError:
        return False


def test_every_pytree_can_be_an_argument_of_an_exported_function():
    pytest.importorskip("flatbuffers")
    instances = [x for x in all_pytrees() if accepts_ones(x)]
    assert {"And", "Window", "Dense", "Slots", "Cache", "TrainState"} <= {type(x).__name__ for x in instances}
    structure = jax.tree.structure(((instances,), {}))
    assert exported(instances).in_tree == structure


def test_exported_static_fields_must_be_literals():
    pytest.importorskip("flatbuffers")
    line = Line(jnp.float32(2), (None, True, "a'", (1, -2.5)), jnp.int32(3))
    assert [x.tolist() for x in exported(line).call(line)] == [2, 3]
    with pytest.raises(ValueError, match="pytree"):
        exported(line).call(Line(jnp.float32(2), "other", jnp.int32(3)))
    for name in (frozenset([1]), float("nan"), jnp.float32):
        with pytest.raises(ValueError, match=r"^Line: got static fields .*; wanted numbers, strings, None"):
            exported(Line(jnp.float32(2), name))


def test_a_class_defined_twice_is_a_pytree_but_not_serializable():
    first, again = (
        pytrees.register(dataclasses.make_dataclass("DefinedTwice", ["x"], frozen=True)) for _ in range(2)
    )
    assert jax.jit(lambda value: value.x + 1)(again(jnp.int32(1))) == 2
    pytest.importorskip("flatbuffers")
    assert exported(first(jnp.int32(1))).call(first(jnp.int32(1))) == [1]
    with pytest.raises(ValueError, match="DefinedTwice"):
        exported(again(jnp.int32(1)))


def test_exported_functions_return_decoding_results():
    pytest.importorskip("flatbuffers")
    for kind in (generate.Generated, generate.Beams):
        make = jax.jit(lambda x, kind=kind: kind(*([x] * len(kind._fields))))
        read = jax.export.deserialize(jax.export.export(make)(jnp.int32(1)).serialize())
        assert isinstance(read.call(jnp.int32(1)), kind)


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Above:
    least: object

    def __post_init__(self):
        if not isinstance(self.least, float):
            raise ValueError(f"Above: got least={self.least!r}; wanted a number.")


def test_unflatten_skips_the_checks_of_the_constructor():
    with pytest.raises(ValueError, match="got least=None"):
        Above(None)
    for leaf in (None, object(), "spec", jnp.ones(2)):
        assert jax.tree.map(lambda _, leaf=leaf: leaf, Above(1.0)).least is leaf
    assert jax.tree.leaves(jax.jit(lambda x: x)(Above(1.0))) == [1.0]


def test_leaves_are_replaced_by_path():
    tree = {"a": {"x": 1, "y": 2}, "b": 3}
    assert pytrees.replace_leaves(tree, {"a": {"y": 5}}) == {"a": {"x": 1, "y": 5}, "b": 3}
    assert pytrees.replace_leaves(tree, {"a": {"z": {"w": 6}}, "c": 7}) == {
        "a": {"x": 1, "y": 2, "z": {"w": 6}},
        "b": 3,
        "c": 7,
    }
    assert tree == {"a": {"x": 1, "y": 2}, "b": 3}
