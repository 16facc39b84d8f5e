"""The rules of the house, held by reading the sources: who may import whom, and what of Flax is used."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {
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
    "pretrained": 2,
    "laws": 2,
    "viz": 2,
    "runs": 3,
    "cli": 4,
}
# Rooms of one floor do not know each other, but for decoding, which laws and checkpoints may use.
MAY_ALSO = {("pretrained", "generate"), ("laws", "generate")}
EXTRAS = {
    "sklearn",
    "babel",
    "sacrebleu",
    "matplotlib",
    "tensorboardX",
    "hypothesis",
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


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "tfm_jax" and len(parts) > 1 and parts[1] in FLOOR else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_lower_floor_never_imports_a_higher_one(path):
    parts = path.relative_to(ROOT / "tfm_jax").parts
    own = Path(parts[0]).stem
    if own == "__init__":
        return
    for name in imports(path):
        assert not name.startswith("experiments"), f"{path} imports {name}"
        other = room(name)
        if other is None or other == own or (own, other) in MAY_ALSO:
            continue
        assert FLOOR[other] < FLOOR[own], f"{own} (floor {FLOOR[own]}) imports {name} (floor {FLOOR[other]})"


def test_the_rule_can_fail(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("from tfm_jax.nn import Config\nfrom tfm_jax import train\n")
    assert {room(name) for name in imports(path)} == {"nn", "train"}


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
            if path.parent.name == "laws" and name.startswith("hypothesis"):
                continue  # the room is the extra: without it, it says what to install
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
