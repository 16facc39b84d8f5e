"""Connecting, agreeing and ending together: with one process, and with several on this machine."""

import json

import jax
import pytest

from tests.processes import Processes, run
from tfm_jax import processes

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def connected(monkeypatch):
    """The arguments of ``jax.distributed.initialize``, which is not called."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    before = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


def test_one_process_needs_no_connection(connected):
    processes.initialize()
    processes.initialize("off")
    assert connected == []
    assert (processes.count(), processes.index(), processes.is_main()) == (1, 0, True)
    processes.sync("place")
    processes.agree("the config", {"a": 1})
    assert processes.from_main("value", lambda: object) is object
    assert [bool(processes.any_process(flag)) for flag in (True, False)] == [True, False]
    with pytest.raises(KeyError), processes.together("program"):
        raise KeyError


def test_an_address_connects(connected):
    processes.initialize("10.0.0.1:1234,4,3")
    (options,) = connected
    assert options["coordinator_address"] == "10.0.0.1:1234"
    assert (options["num_processes"], options["process_id"]) == (4, 3)
    assert options["heartbeat_timeout_seconds"] == 15
    assert not jax.config.jax_enable_preemption_service


@pytest.mark.parametrize(
    "mode",
    ["yes", "", "host,2,0", "host:1,2", "host:1,2,2", "host:1,a,0", ":1,2,0", "host:0,2,0", "h:1,2,-1"],
)
def test_another_mode_is_an_error(connected, mode):
    with pytest.raises(ValueError, match="wanted auto, on, off, or HOST:PORT,COUNT,INDEX"):
        processes.initialize(mode)
    assert not connected


def test_auto_connects_the_tasks_of_slurm(connected, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    processes.initialize("off")
    assert not connected
    processes.initialize("auto")
    assert connected == [{"heartbeat_timeout_seconds": 15}]  # JAX finds the rest


def test_auto_does_not_connect_a_single_task(connected, monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    processes.initialize("auto")
    assert not connected
    processes.initialize("on")
    assert len(connected) == 1


def test_the_only_task_of_a_slurm_node_has_all_its_gpus(connected, monkeypatch):
    more = {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "8"}
    for name, value in {**SLURM, **more}.items():
        monkeypatch.setenv(name, value)
    processes.initialize()
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x2)")
    processes.initialize()
    assert [[*options.get("local_device_ids", ())] for options in connected] == [[*range(8)], []]


def test_on_without_a_cluster_is_an_error(connected):
    with pytest.raises(ValueError, match="got 'on' without Slurm"):
        processes.initialize("on")


def test_a_cluster_that_jax_cannot_read_is_an_error(connected, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="got 4 tasks of an Open MPI"):
        processes.initialize()
    processes.initialize("off")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    processes.initialize()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    processes.initialize()  # a pod that is not of a job
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(ValueError, match=r"pip install 'jax\[k8s\]'"):
        processes.initialize()
    assert not connected


def test_an_environment_that_cannot_be_read_is_an_error(connected, monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "two"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"SlurmCluster that JAX cannot read \(ValueError: invalid literal"):
        processes.initialize()
    assert not connected


def test_the_version_of_the_code_changes_with_its_sources(monkeypatch, tmp_path):
    version = processes.code_version()
    assert version == processes.code_version()
    (tmp_path / "processes.py").write_text("")
    monkeypatch.setattr(processes, "__file__", str(tmp_path / "processes.py"))
    assert processes.code_version()["sources"] != version["sources"]
    assert processes.code_version()["jax"] == version["jax"]


def test_processes_share_values():
    n = 2
    outputs = run(n, "tests.process_cases", "values")
    for number, output in enumerate(outputs):
        *printed, line = output.splitlines()
        assert printed == (["printed"] if number == 0 else [])
        shown = json.loads(line)
        assert shown["flags"] == [False, True]
        assert shown["made"] == {"by": 0}
        assert (shown["index"], shown["count"], shown["main"]) == (number, n, number == 0)
        assert shown["local"] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 28.0]
        assert shown["devices"] == 1
        assert "none of process 1; wanted devices of every process" in shown["refused"][0]
        assert "Use jit, which runs on all" in shown["refused"][1]


def fail(n, *arguments):
    """The exit statuses and errors of processes, one of which fails. Without an end, they would wait on."""
    with Processes(n, "tests.process_cases", *arguments) as started:
        ended = started.finish()
    return [status for status, _, _ in ended], [error for _, _, error in ended]


@pytest.mark.slow
def test_processes_that_disagree_end_with_one_error():
    statuses, errors = fail(3, "disagree")
    assert statuses == [1] * 3
    assert "got 3 processes that disagree on the config" in errors[0]
    assert "  seed: process 0 has 0, process 2 has 1" in errors[0]
    assert "  steps:" not in errors[0]
    assert errors[1:] == ["", ""]


def test_an_error_of_all_is_printed_once():
    statuses, errors = fail(2, "all_exit")
    assert statuses == [1, 1]
    assert errors == ["process 0 of 2: case: got batch_size=7; wanted 8\n", ""]


@pytest.mark.slow
def test_an_error_of_process_0_is_raised_by_all():
    statuses, errors = fail(2, "main_raises")
    assert statuses == [1, 1]
    assert errors[0].endswith("process 0 of 2: case: FileExistsError: runs/a: got files in it\n")
    assert errors[1] == ""


@pytest.mark.slow
def test_an_exit_status_is_that_of_all():
    assert fail(2, "usage") == ([2, 2], ["", ""])


GLOO = (
    "UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error [127.0.0.1]:28083:\nConnection reset by peer"
)
IN_ONE_LINE = GLOO.replace("\n", " ") + ". If another process ended, its output has the cause"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            jax.errors.JaxRuntimeError("stuck"),
            "case: stuck. If another process ended, its output has the cause",
        ),
        (ValueError(GLOO), f"case: {IN_ONE_LINE}"),
        (SystemExit(f"digits: {GLOO}"), f"digits: {IN_ONE_LINE}"),
        (ValueError("wanted:\n  3"), "case: ValueError: wanted:\n  3"),
        (SystemExit("case: wanted:\n  3"), "case: wanted:\n  3"),
        (SystemExit(2), "case: exit status 2"),
    ],
)
def test_an_error_of_a_computation_does_not_blame_its_process(error, wanted):
    assert processes._describe("case", error) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_where_one_raises_the_others_end(tmp_path, number):
    statuses, errors = fail(2, "one_raises", number, tmp_path)
    assert statuses == [1, 1]
    assert errors[number].endswith(f"process {number} of 2: case: RuntimeError: disk full\n")
    other = 1 - number
    assert errors[other] == (
        f"process {other} of 2: ended, since process {number} failed: case: RuntimeError: disk full\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}  # what each does on a failure


@pytest.mark.slow
def test_where_one_cannot_read_its_data_the_others_end(tmp_path):
    statuses, errors = fail(2, "fit_fails", tmp_path)
    assert statuses[1] == 1 and statuses[0] != 0  # gloo may abort, after the message
    assert errors[1].endswith("process 1 of 2: case: OSError: got a damaged file\n")
    assert "ended, since process 1 failed: case: OSError: got a damaged file" in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == ["2", "4"]


@pytest.mark.slow
def test_sigterm_to_one_ends_all():
    statuses, errors = fail(2, "one_gets_sigterm")
    assert statuses == [1, 1]
    assert "got SIGTERM" in errors[1]
    assert "process 0 of 2: ended, since process 1 failed: case: got SIGTERM" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "case", "number"),
    [(3, "one_is_killed", 1), (2, "one_is_killed", 0), (2, "one_is_killed_in_a_collective", 1)],
)
def test_where_one_is_killed_the_others_end(n, case, number):
    statuses, errors = fail(n, case, number)
    assert statuses.pop(number) == -9
    assert 0 not in statuses
    del errors[number]
    # A collective fails at once. Elsewhere JAX may be faster than our line, above all without process 0.
    wanted = ("is gone, killed or without a network", "task died", "its output has the cause")
    for error in errors:
        assert any(message in error for message in wanted)
    if n == 3:
        assert any("ended, since process 1 is gone" in error for error in errors)
