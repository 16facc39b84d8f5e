"""``tfm laws``: where the function is, its adapters, options of the suite, and the forms of the report."""

import json
import sys

import pytest

from tests.mutants.attention import RIGHT
from tfm_jax import laws

SOURCE = """
import dataclasses
from tests.mutants.attention import attend as right
number = 3

def wrong(q, k, v, mask):
    return 2 * right(q, k, v, mask)

def unsupported(q, k, v, mask):
    raise ValueError('no')

@dataclasses.dataclass
class Model:
    @staticmethod
    def attend(q, k, v, mask):
        return right(q, k, v, mask)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A module of the current directory, a broken one, and a suite of one law."""
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    for name in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(laws.SUITES, "attention", laws.attention.only("no_mask"))


@pytest.mark.parametrize(
    "text, status, message",
    [
        ("mine.right", 0, "1 laws of attention: 1 hold, 0 violated, 0 not supported"),
        ("mine.Model.attend", 0, "1 hold"),
        ("mine.py:right", 0, "1 hold"),
        ("./mine.py:Model.attend", 0, "1 hold"),
        ("tfm_jax.ops.attention", 0, "1 hold"),
        ("tfm_jax.ops.attention:attention", 0, "1 hold"),
        ("mine.wrong", 1, "violated      no_mask: Without a mask"),
        ("mine.unsupported", 1, "0 hold, 0 violated, 1 not supported"),
        ("mine.nothing", 2, "got mine.nothing; wanted a function (module 'mine' has no attribute 'nothing')"),
        ("mine.py:nothing", 2, "got mine.py:nothing; wanted a function (module 'laws_of_mine' has no attr"),
        ("nowhere.at_all", 2, "got nowhere.at_all; wanted a function (No module named 'nowhere')"),
        ("nowhere.py:f", 2, "got nowhere.py:f; wanted a file (No such file or directory)."),
        ("broken.f", 2, "got broken.f; wanted a function (ZeroDivisionError('division by zero'))."),
        ("broken.py:f", 2, "got broken.py:f; wanted a function (ZeroDivisionError('division by zero'))."),
        ("mine.number", 2, "MODULE.FUNCTION|FILE.py:FUNCTION: got mine.number = 3; wanted a function"),
    ],
)
def test_function(text, status, message, tfm):
    got, out, err = tfm("laws", text, "--examples", "3")
    assert got == status, out + err
    assert message in out + err and len(err.splitlines()) == (status == 2)


def test_an_unknown_suite_lists_the_suites(tfm):
    status, _, err = tfm("laws", "math.sqrt", "--suite", "bridges")
    assert status == 2
    assert "--suite: got 'bridges'" in err and "attention: attend(q [B, T, N, H]" in err


def test_adapters_and_sizes(tfm, tmp_path):
    (tmp_path / "arrays.py").write_text(
        "import numpy as np\n"
        "def attend(q, k, v, mask):\n"
        "    assert type(q) is np.ndarray and q.shape[1::2] == k.shape[1::2] == (3, 8)\n"
        "    e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))\n"
        "    return e / e.sum(-1, keepdims=True) @ v\n"
    )
    sizes = ("--kv-heads", "equal", "--heads", "3", "--head-dim", "8")
    for adapters in (("numpy", "heads-first"), ("heads-first", "numpy")):
        words = [word for adapter in adapters for word in ("--adapter", adapter)]
        status, out, err = tfm("laws", "arrays.py:attend", *words, *sizes, "--examples", "3")
        assert (status, err) == (0, ""), out


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("--suite", "activation", "--heads", "3"),
            "--heads: got --suite activation; wanted one of attention, masked",
        ),
        (
            ("--suite", "norm", "--kv-heads", "equal"),
            "--kv-heads: got --suite norm; wanted one of attention, masked",
        ),
        (("--head-dim", "3"), "--head-dim: got 3; wanted at least 4."),
        (("--json", "--markdown"), "--json: got --markdown too; wanted one of both."),
        (("--adapter", "numpy", "--adapter", "torch"), "--adapter: got torch and numpy; wanted one of both."),
        (("--badge", "no/b.svg"), "--badge: got no/b.svg; wanted a file in a directory that exists."),
        (("--badge", "b.png"), "--badge: got b.png; wanted a name that ends in .svg or .json."),
    ],
)
def test_options_that_do_not_fit(words, message, tfm):
    status, out, err = tfm("laws", "mine.right", *words)
    assert (status, out) == (2, "") and err.startswith(f"tfm: {message}")


def test_forms_of_the_report(tfm, tmp_path):
    status, out, _ = tfm("laws", "mine.wrong", "--examples", "3", "--json", "--badge", "b.json")
    data = json.loads(out)
    report = laws.check(lambda *x: 2 * RIGHT(*x), laws.SUITES["attention"], examples=3)
    assert status == 1 and data == report.to_dict() and data["violated"] == 1
    assert json.loads((tmp_path / "b.json").read_text())["message"] == "0 of 1 hold"
    status, out, _ = tfm("laws", "mine.wrong", "--examples", "3", "--markdown", "--badge", "b.svg")
    assert status == 1 and out == f"{report.to_markdown()}\n"
    assert (tmp_path / "b.svg").read_text().startswith("<svg ")


def test_a_function_of_no_supported_call_is_said_once(tfm, monkeypatch):
    monkeypatch.setitem(laws.SUITES, "attention", laws.attention.only("definition", "no_mask", "causality"))
    status, out, _ = tfm("laws", "mine.unsupported")
    assert status == 1 and len(out.splitlines()) < 10
    assert out.count("the function refuses every call") == 1 and "raise ValueError('no')" in out
