import gzip
import json

import pytest

from tests.train import problem
from tests.train.test_loop import STEP, initial
from tfm_jax import train
from tfm_jax.train.profiling import Profile, read_steps


def traced_steps(directory):
    """The steps in the traces below a directory, by their annotations; one list a trace."""
    found = []
    for path in sorted(directory.rglob("*.trace.json.gz")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found.append(sorted({int(e["args"]["step_num"]) for e in events if e.get("name") == "train"}))
    return found


def fit(directory, first=3, last=5, **options):
    options = {"steps": 7, **options}
    state = options.pop("state", None) or initial()
    return train.fit(STEP, state, problem.Batches(), profile=Profile(first, last, directory), **options)


def test_fit_traces_the_steps_and_prints_where(tmp_path, capsys):
    fit(tmp_path)
    assert traced_steps(tmp_path) == [[3, 4, 5]]
    assert capsys.readouterr().out.startswith(f"profile of steps 3 to 5: {tmp_path}; open it by xprof ")


def test_a_run_that_resumes_within_the_profile_traces_the_rest_and_beyond_nothing(tmp_path, capsys):
    state = train.fit(STEP, initial(), problem.Batches(), steps=4).state
    state = fit(tmp_path / "rest", state=state).state
    assert traced_steps(tmp_path / "rest") == [[5]]
    assert "profile of steps 5 to 5" in capsys.readouterr().out
    fit(tmp_path / "beyond", state=state, steps=9)
    assert not (tmp_path / "beyond").exists()
    assert capsys.readouterr().out == ""


def test_a_run_that_ends_within_the_profile_writes_what_it_has(tmp_path, capsys):
    with pytest.raises(ValueError, match="got 4 batches; wanted 7"):
        train.fit(
            STEP, initial(), problem.Batches(end=4), steps=7, profile=Profile(3, 6, tmp_path)
        )  # fmt: skip
    assert traced_steps(tmp_path) == [[3, 4, 5]]  # step 5 began, and found no batch
    assert "profile of steps 3 to 4" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "10", "13:10", "0:3", "-1:3", "1:2:3", "a:b", "1.5:3", " 1:2", "1:٣"])
def test_a_wrong_range_is_one_error(text):
    with pytest.raises(ValueError, match="wanted the first and the last step to trace, such as 10:13"):
        read_steps(text)


def test_a_range_has_both_ends():
    assert read_steps("10:13") == (10, 13) and read_steps("7:7") == (7, 7)
    with pytest.raises(ValueError, match="Profile: got the steps 3:2; wanted first:last"):
        Profile(3, 2, "somewhere")
