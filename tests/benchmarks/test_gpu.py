"""``benchmarks.gpu`` with tiny sizes and without the packages that a GPU machine may lack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
RESULTS = {
    "train-decoder": "train 124 M decoder",
    "attention": "attention B 2 T 32 N 2 H 16",
    "train-paper": "train paper base",
    "generate": "generate 1 B, greedy, batch 3",
}


def block(directory, *names):
    """Modules that cannot be imported."""
    for name in names:
        (directory / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')\n")


@pytest.mark.parametrize("without", ["", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "section",
    ["attention", *(pytest.param(name, marks=pytest.mark.slow) for name in RESULTS if name != "attention")],
)
def test_section_runs_without_datasets_grain_and_tyro(section, without, tmp_path):
    block(tmp_path, "datasets", "grain", "tyro", *without.split())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--section", section]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(RESULTS[section])]
    assert rows and all(any(unit in rows[0] for unit in ("tokens/s", "TFLOP/s")) for row in rows)
    if without:
        assert "not measured: ImportError: torch is blocked" in done.stdout


def test_a_section_is_ended_at_its_limit_and_the_next_one_runs(monkeypatch, tmp_path, capfd):
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport sys, time\ntime.sleep(60 * ('attention' in sys.argv))\n")
    program.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(program))
    monkeypatch.setattr(gpu, "SECTIONS", {"attention": (None, 5.5), "generate": (None, 30)})
    assert gpu.run_sections(["attention", "generate"], []) == 1
    out = capfd.readouterr().out
    assert re.search(r"attention: [56] s, ended by the limit of [56] s\n", out)
    assert "generate: 0 s\n" in out
    assert gpu.run_sections(["generate"], [], total=2) == 1
    assert capfd.readouterr().out == "generate: no time left\n"


def test_full_sizes_need_a_gpu(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--section", "attention"])
    assert "got a CPU; wanted a GPU, or --tiny" in capsys.readouterr().err
