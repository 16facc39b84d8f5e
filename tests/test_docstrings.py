"""Docstrings of public names have the form that CONTRIBUTING.md describes."""

import importlib
import inspect
import pkgutil

import pytest

import tfm_jax

OPS = ("ops", "ops.backends", "ops.masks")
PACKAGES = (*OPS, "nn", "data", "generate", "train", "viz", "laws", "pretrained")


def public_names():
    for package in PACKAGES:
        module = importlib.import_module(f"tfm_jax.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield pytest.param(value, id=f"{package}.{name}")


NAMES = list(public_names())


@pytest.mark.parametrize("value", NAMES)
def test_a_public_name_has_a_docstring(value):
    doc = inspect.getdoc(value)
    assert doc, "no docstring"
    first = doc.splitlines()[0]
    assert first.rstrip().endswith((".", ":")), f"the first line is not a sentence: {first!r}"
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 1:
        assert "Args:" in doc and "Returns:" in doc, "Args or Returns is missing"


@pytest.mark.parametrize("value", [n for n in NAMES if n.id.startswith(("ops.", "generate."))])
def test_a_pure_function_has_equivalent_code(value):
    if inspect.isfunction(value):
        assert "Equivalent to::" in inspect.getdoc(value)


@pytest.mark.parametrize("value", [n for n in NAMES if inspect.isfunction(n.values[0])])
def test_a_public_function_has_at_most_six_positional_parameters(value):
    kinds = [p.kind for p in inspect.signature(value).parameters.values()]
    assert (
        sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)
        <= 6
    )


def test_every_module_lists_its_public_names():
    for info in pkgutil.walk_packages(tfm_jax.__path__, "tfm_jax."):
        module = importlib.import_module(info.name)
        assert module.__doc__, f"{info.name} has no docstring"
        if not info.ispkg and info.name != "tfm_jax.types":
            assert hasattr(module, "__all__"), f"{info.name} has no __all__"
