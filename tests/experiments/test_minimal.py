"""experiments/minimal.py: the loss falls, and the samples are text."""

import re
import runpy
from pathlib import Path

PATH = Path(__file__).parents[2] / "experiments" / "minimal.py"


def test_loss_falls_and_samples_are_text(capsys):
    program = runpy.run_path(str(PATH), run_name="minimal")  # as python experiments/minimal.py, without main
    program["main"](steps=30, batch_size=8)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"5,\d\d\d names, such as 'en:world'; \d+ tokens", lines[0])
    steps = [re.match(r"step +(\d+): loss (\S+), of new names (\S+) ", line) for line in lines]
    losses = {int(m[1]): (float(m[2]), float(m[3])) for m in steps if m}
    assert losses.keys() == {1, 30}
    assert losses[30][0] < 4 < 5 < losses[1][0] and losses[30][1] < 4 < 5 < losses[1][1]
    samples = dict(line.split(": ", 1) for line in lines[len(losses) + 1 :])
    assert tuple(samples) == program["LANGUAGES"]
    assert all(re.search(r"[a-z]", text) for text in samples.values())


def test_tutorial_is_short():
    assert len(PATH.read_text().splitlines()) <= 120
