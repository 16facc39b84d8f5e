"""The rules of imports, checked on the sources: which package may import which, and what of Flax is used."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = {
    "ranges": -3,
    "types": -2,
    "fields": -2,
    "checks": -1,
    "values": -1,
    "hub": -1,
    "console": -1,
    "pytrees": -1,
    "ops": 0,
    "nn": 1,
    "generate": 2,
    "data": 2,
    "train": 2,
    "viz": 2,
    "laws": 3,
    "pretrained": 3,
    "runs": 4,
    "cli": 5,
    "experiments": 5,
}
EXTRAS = {
    "sklearn",
    "babel",
    "sacrebleu",
    "matplotlib",
    "tensorboardX",
    "hypothesis",
    "sentencepiece",
    "google",
    "torch",
    "transformers",
}
FLAX = {
    "nnx.GraphDef",
    "nnx.Module",
    "nnx.Param",
    "nnx.Rngs",
    "nnx.eval_shape",
    "nnx.merge",
    "nnx.split",
    "nnx.to_pure_dict",
}

SOURCES = sorted((ROOT / "tfm_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package(dotted: str) -> str | None:
    """The package of the project that a dotted name is in, such as "ops"; None for any other."""
    parts = dotted.split(".")
    if parts[0] == "experiments":
        return "experiments"
    return parts[1] if parts[0] == "tfm_jax" and len(parts) > 1 and parts[1] in LAYER else None


def wrong_imports(path: Path, own: str) -> list[str]:
    """The imports of a module that its layer does not allow."""
    others = {name: package(name) for name in imports(path)}
    return [name for name, other in others.items() if other not in (None, own) and LAYER[other] >= LAYER[own]]


@pytest.mark.parametrize("path", SOURCES + EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_imports_only_packages_of_lower_layers(path):
    parts = path.relative_to(ROOT).parts
    own = parts[0] if parts[0] == "experiments" else Path(parts[1]).stem
    if own == "__init__":
        return
    assert not wrong_imports(path, own), f"{path}: {own} is in layer {LAYER[own]}"


def test_the_rule_can_fail(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "import experiments.runner\nfrom tfm_jax import ops, train\nfrom tfm_jax.nn import Config\n"
    )
    assert sorted(wrong_imports(path, "generate")) == ["experiments.runner", "tfm_jax.train"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_load_only_where_they_are_used(path):
    for node in ast.parse(path.read_text()).body:
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in names:
            if "laws" in path.parts and name.startswith("hypothesis"):
                continue  # the package is the extra: without it, it says what to install
            assert name.split(".")[0] not in EXTRAS, f"{path} imports {name} at its top"


def test_the_flax_names_in_use_are_those_listed():
    used = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "nnx"
            ):
                used.add(f"nnx.{node.attr}")
        assert not any(name.startswith("flax") and name != "flax.nnx" for name in imports(path)), (
            f"{path} imports more of flax than nnx"
        )
    assert used == FLAX


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 500, f"{path} has {lines} lines: split it by idea"
