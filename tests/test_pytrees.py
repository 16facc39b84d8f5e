"""Pytrees are told apart by their class: what ``jit`` compiled for one never runs on another."""

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
    """An instance of each of the package's dataclasses that are pytrees, each of its fields the same."""
    for module in pkgutil.walk_packages(tfm_jax.__path__, "tfm_jax."):
        if module.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            its_own = isinstance(cls, type) and cls.__module__ == module.name
            if its_own and dataclasses.is_dataclass(cls) and not inspect.isabstract(cls):
                instance = object.__new__(cls)
                for field in dataclasses.fields(cls):
                    object.__setattr__(instance, field.name, 1)
                if not jax.tree_util.all_leaves([instance]):
                    yield instance


def test_no_two_classes_of_the_package_have_one_structure():
    instances = list(all_pytrees())
    names = {type(x).__name__ for x in instances}
    assert {"And", "Or", "Window", "Padding", "TopP", "MinP", "Slots", "TrainState", "SuppressFrom"} <= names
    for x, y in itertools.combinations(instances, 2):
        assert jax.tree.structure(x) != jax.tree.structure(y), f"{type(x)} is taken for {type(y)}"


def test_jit_runs_each_class_its_own_program():
    # Enough classes that equal structures would meet in the hash table of jit's programs.
    classes = [
        pytrees.register(dataclasses.make_dataclass(f"Value{i}", ["x"], namespace={"i": i}))
        for i in range(50)
    ]
    scaled = jax.jit(lambda value: value.x * value.i)
    for cls in classes:
        assert scaled(cls(jnp.float32(2))) == 2 * cls.i


@given(st.integers(), st.text(max_size=3), st.integers())
def test_leaves_and_structure_make_the_value_again(slope, name, start):
    line = Line(slope, name, start)
    leaves, structure = jax.tree.flatten(line)
    assert leaves == [slope, start]
    assert jax.tree.unflatten(structure, leaves) == line
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(line)]
    assert paths == [".slope", ".start"]
    assert jax.tree.structure(Line(slope, name + "'", start)) != structure
    assert jax.tree.structure(Line((slope,), name, start)) != structure


def test_what_is_no_dataclass_or_a_pytree_already_is_refused():
    with pytest.raises(TypeError, match="dataclass"):
        pytrees.register(int)
    with pytest.raises(ValueError, match="Line"):
        pytrees.register(Line)


def exported(value):
    """What gives the leaves of such a value, serialized and read again."""
    leaves = jax.jit(lambda value: jax.tree.leaves(value))
    return jax.export.deserialize(jax.export.export(leaves)(value).serialize())


def takes_ones(value):
    """Whether its class checks no static field that 1 is not."""
    try:
        return jax.tree.map(lambda x: x, value) is not None
    except ValueError:
        return False


def test_every_pytree_of_the_package_is_an_argument_of_exported_functions():
    pytest.importorskip("flatbuffers")
    instances = [x for x in all_pytrees() if takes_ones(x)]
    assert {"And", "Window", "Dense", "Slots", "Cache", "TrainState"} <= {type(x).__name__ for x in instances}
    structure = jax.tree.structure(((instances,), {}))
    assert exported(instances).in_tree == structure


def test_static_fields_are_written_as_literals_or_refused_by_name():
    pytest.importorskip("flatbuffers")
    line = Line(jnp.float32(2), (None, True, "a'", (1, -2.5)), jnp.int32(3))
    assert [x.tolist() for x in exported(line).call(line)] == [2, 3]
    with pytest.raises(ValueError, match="pytree"):
        exported(line).call(Line(jnp.float32(2), "other", jnp.int32(3)))
    for name in (frozenset([1]), float("nan"), jnp.float32):
        with pytest.raises(ValueError, match=r"^Line: got static fields .*; wanted numbers, texts, None or"):
            exported(Line(jnp.float32(2), name))


def test_a_class_that_is_defined_again_is_a_pytree_again():
    first, again = (
        pytrees.register(dataclasses.make_dataclass("DefinedTwice", ["x"], frozen=True)) for _ in range(2)
    )
    assert jax.jit(lambda value: value.x + 1)(again(jnp.int32(1))) == 2
    pytest.importorskip("flatbuffers")
    assert exported(first(jnp.int32(1))).call(first(jnp.int32(1))) == [1]
    with pytest.raises(ValueError, match="DefinedTwice"):
        exported(again(jnp.int32(1)))


def test_what_decoding_gives_is_a_result_of_exported_functions():
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


def test_checks_of_what_a_user_makes_do_not_meet_the_leaves_of_jax():
    with pytest.raises(ValueError, match="got least=None"):
        Above(None)
    for leaf in (None, object(), "spec", jnp.ones(2)):
        assert jax.tree.map(lambda _, leaf=leaf: leaf, Above(1.0)).least is leaf
    assert jax.tree.leaves(jax.jit(lambda x: x)(Above(1.0))) == [1.0]
