"""Rules of imports, checked on the sources: layers, cycles, optional dependencies, and the use of Flax."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = {
    "ranges": -3,
    "registry": -3,
    "types": -2,
    "_clusters": -2,
    "fields": -2,
    "checks": -1,
    "values": -1,
    "hub": -1,
    "console": -1,
    "compilation_cache": -1,
    "processes": -1,
    "pytrees": -1,
    "sharding": -1,
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
    "nnx.PathContains",
    "nnx.Rngs",
    "nnx.data",
    "nnx.eval_shape",
    "nnx.iter_modules",
    "nnx.merge",
    "nnx.split",
    "nnx.to_pure_dict",
}

SOURCES = sorted((ROOT / "tfm_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def names_of(node: ast.AST) -> set[str]:
    """The dotted names that a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports anywhere."""
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in names_of(node)}


def loading_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not in functions, nor under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from loading_statements(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from loading_statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from loading_statements(handler.body)


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(paths: list[Path], root: Path = ROOT) -> dict[str, set[str]]:
    """The modules that each module imports when it is loaded; ``from package import x`` may be a module x."""
    modules = {module_name(path, root): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        statements = loading_statements(ast.parse(path.read_text()).body)
        names = {name for node in statements for name in names_of(node)}
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (found & modules.keys()) - {module}
    return graph


def package(dotted: str) -> str | None:
    """The package of a dotted name, such as "ops"; None if it is not of this project."""
    parts = dotted.split(".")
    if parts[0] == "experiments":
        return "experiments"
    return parts[1] if parts[0] == "tfm_jax" and len(parts) > 1 and parts[1] in LAYER else None


def wrong_imports(path: Path, importer: str) -> list[str]:
    """The imports of a module that the layer of its package does not allow."""
    packages = {name: package(name) for name in imports(path)}
    return [
        name
        for name, other in packages.items()
        if other not in (None, importer) and LAYER[other] >= LAYER[importer]
    ]


@pytest.mark.parametrize("path", SOURCES + EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_imports_only_packages_of_lower_layers(path):
    parts = path.relative_to(ROOT).parts
    importer = parts[0] if parts[0] == "experiments" else Path(parts[1]).stem
    if importer == "__init__":
        return
    assert not wrong_imports(path, importer), f"{path}: {importer} is in layer {LAYER[importer]}"


def test_a_wrong_import_is_found(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "import experiments.runner\nfrom tfm_jax import ops, train\nfrom tfm_jax.nn import Config\n"
    )
    assert sorted(wrong_imports(path, "generate")) == ["experiments.runner", "tfm_jax.train"]


def private_imports(path: Path, private: set[str], root: Path = ROOT) -> list[str]:
    """The modules named ``_x`` that a module imports from outside of their package."""
    importer, names = module_name(path, root), imports(path)

    def is_inside(package: str) -> bool:
        return importer == package or importer.startswith(f"{package}.")

    return [
        module
        for module in private
        if any(name == module or name.startswith(f"{module}.") for name in names)
        and not is_inside(module.rpartition(".")[0])
    ]


PRIVATE = {
    module_name(path) for path in SOURCES + EXPERIMENTS if path.stem.startswith("_") and path.stem[:2] != "__"
}


@pytest.mark.parametrize("path", SOURCES + EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_modules_are_imported_only_in_their_package(path):
    assert not private_imports(path, PRIVATE)


def test_a_wrong_import_of_a_private_module_is_found(tmp_path):
    for package in ("p", "q"):
        (tmp_path / package).mkdir()
        path = tmp_path / package / "a.py"
        path.write_text("from p._b import x\nfrom p import _b\nfrom p.c import _x\n")
        assert private_imports(path, {"p._b"}, tmp_path) == (["p._b"] if package == "q" else [])


def test_there_is_no_import_cycle():
    graphlib.TopologicalSorter(import_graph(SOURCES + EXPERIMENTS)).prepare()  # raises CycleError


def test_an_import_cycle_is_found(tmp_path):
    sources = {
        "a": "from p import b",
        "b": "try:\n    import p.c\nexcept ImportError:\n    pass",
        "c": "if TYPE_CHECKING:\n    import p.a\ndef f():\n    import p.a",
    }
    (tmp_path / "p").mkdir()
    paths = [tmp_path / "p" / f"{name}.py" for name in sources]
    for path, source in zip(paths, sources.values(), strict=True):
        path.write_text(source)
    assert import_graph(paths, tmp_path) == {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}
    paths[2].write_text("from p.a import x")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(paths, tmp_path)).prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_are_imported_only_inside_functions(path):
    for node in loading_statements(ast.parse(path.read_text()).body):
        for name in names_of(node):
            if "laws" in path.parts and name.startswith("hypothesis"):
                continue  # hypothesis is the extra of this package, which says so if it is missing
            assert name.split(".")[0] not in EXTRAS, f"{path} imports {name} when it is loaded"


def test_only_the_listed_names_of_flax_are_used():
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
            f"{path} imports flax besides nnx"
        )
    assert used == FLAX


@pytest.mark.parametrize("path", SOURCES + EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_have_at_most_500_lines(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 500, f"{path} has {lines} lines; wanted at most 500. Split it by idea."
