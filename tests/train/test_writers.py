import io
import json
import math
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tfm_jax import processes, train
from tfm_jax.train.writers import read_json_lines


def test_json_lines_appends_and_removes_later_steps_on_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with train.JsonLines(path) as write:
        for step in (10, 20, 30):
            write(step, {"loss": step / 10, "bad": math.nan}, {"n": np.float32(2)})
            assert len(path.read_text().splitlines()) == step // 10  # on the disk at once
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    with train.JsonLines(path, after=20) as write:
        write(25, {"loss": 1.0}, {})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert lines[0] == {"step": 10, "loss": 1.0, "bad": None, "n": 2.0}


def test_json_lines_creates_an_empty_file(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    train.JsonLines(path).close()
    assert path.read_text() == ""


def events(directory):
    """The records of a TensorBoard file: length, checksum, bytes, checksum."""
    for path in directory.glob("events*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield data[12 : 12 + length]
            data = data[16 + length :]


def test_tensorboard_writes_every_metric(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    with train.TensorBoard(tmp_path) as write:
        write(10, {"loss": 2.5}, {"accuracy": 0.25})
    with train.TensorBoard(tmp_path / "resumed", after=10) as write:
        write(20, {"loss": 1.5}, {})
    found = [
        (event.step, value.tag, value.simple_value)
        for event in map(Event.FromString, events(tmp_path))
        for value in event.summary.value
    ]
    assert sorted(found) == [(10, "accuracy", 0.25), (10, "loss", 2.5)]
    starts = [Event.FromString(e) for e in events(tmp_path / "resumed")]
    assert any(event.step == 11 and event.HasField("session_log") for event in starts)


def test_tensorboard_writes_to_disk_before_close(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    with train.TensorBoard(tmp_path) as write:
        for step in (1, 2):
            write(step, {"loss": 2.5}, {})
        deadline = time.monotonic() + 20
        while not any(Event.FromString(e).step == 2 for e in events(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # a run that is killed before its first checkpoint starts again; its events are purged
        assert any(event.HasField("session_log") for event in map(Event.FromString, events(tmp_path)))


def test_tensorboard_without_tensorboardx_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'tfm_jax\[experiments\]'"):
        train.TensorBoard(tmp_path)


METRICS = {"loss": 2.34567, "grad_norm": 3.0, "tokens_per_second": 5120.4, "learning_rate": 3e-4}


def test_progress_without_a_terminal_prints_few_plain_lines():
    out = io.StringIO()
    with train.Progress(60, console=Console(file=out, soft_wrap=True), seconds=1000.0) as write:
        for step in range(10, 70, 10):
            write(step, METRICS, {"valid_loss": 2.0} if step in (30, 50) else {})
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["10/60", "30/60", "50/60", "60/60"]
    assert lines[0].startswith("step 10/60  loss 2.346  5,120 tokens/s  rate 3.0e-04  0:0")
    assert "valid_loss 2" in lines[1] and lines[3].endswith("0:00 left")
    assert "\x1b" not in out.getvalue()


def test_progress_prints_every_evaluation():
    out = io.StringIO()
    with train.Progress(60, console=Console(file=out, soft_wrap=True), seconds=1000.0) as write:
        for step in range(10, 60, 10):
            write(step, METRICS, {"valid_loss": 2.0})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == [f"{s}/60" for s in range(10, 60, 10)]


def test_progress_on_a_terminal_is_a_bar_below_evaluations():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with train.Progress(40, start=10, console=console) as write:
        write(20, METRICS, {})
        write(30, METRICS, {"valid_loss": 2.0})
    text = out.getvalue()
    assert "30/40 loss 2.346  5,120 tokens/s  rate 3.0e-04" in text
    assert text.count("step 30/40  loss 2.346  5,120 tokens/s  rate 3.0e-04  valid_loss 2") == 1


complete_lines = st.lists(st.integers(1, 50), unique=True, max_size=6).map(
    lambda steps: [{"step": step, "loss": step / 2} for step in sorted(steps)]
)
JUNK = ["junk", "[1]", '{"loss": 1}', '{"step": "a"}', '{"step": true}', "\x00\x00", "[" * 9000, '"\udcff"']


@given(
    complete_lines,
    st.integers(0, 50),
    st.sampled_from(["", '{"step": 60, "lo', '{"step": 60}', "\x00", "[["]),
)
def test_json_lines_keeps_complete_lines_whatever_a_kill_leaves(lines, after, last):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + last)
        complete = [{"step": 60}] if last == '{"step": 60}' else []
        assert read_json_lines(path) == lines + complete
        train.JsonLines(path, after=after).close()
        assert read_json_lines(path) == [line for line in lines if line["step"] <= after]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_line_raises_by_number_and_changes_nothing(tmp_path, junk):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n\n' + junk.encode(errors="surrogateescape") + b'\n{"step": 2}\n'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3: got .*Remove this line; the others stay"):
        train.JsonLines(path, after=5)
    assert path.read_bytes() == content
    path.write_bytes(b'{"step": 1}\n\n{"step": 2}\n')  # as the message says
    train.JsonLines(path, after=5).close()
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_only_process_0_writes(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    monkeypatch.setattr(processes, "is_main", lambda: False)
    console = io.StringIO()
    monkeypatch.setattr("sys.stdout", console)
    writers = train.JsonLines(path, after=1), train.TensorBoard(tmp_path / "events"), train.Progress(9)
    for writer in writers:
        with writer:
            writer(2, {"loss": 1.0}, {"validation/loss": 2.0})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert not (tmp_path / "events").exists()
    assert console.getvalue() == ""
