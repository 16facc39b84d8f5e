"""The tasks that the environment of a cluster declares, by JAX's own detection."""

import os
from typing import Any

__all__ = ["declared_tasks", "local_devices"]


def declared_tasks() -> tuple[str, int] | None:
    """The kind of cluster that the environment declares, and its number of tasks; None without one."""
    from jax._src.clusters import ClusterEnv

    tasks = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if tasks != "1" and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        raise ValueError(
            f"--distributed: got {tasks} tasks of an Open MPI whose address JAX cannot read (version 5 or "
            "above); wanted it. Give --distributed HOST:PORT,COUNT,INDEX, or off for runs of their own"
        )
    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method or (kind.__name__ == "K8sCluster" and not _is_indexed_job()):
            continue
        try:
            if kind.is_env_present():
                return kind.__name__, kind.get_process_count()
        except Exception as error:  # of a network, a file or a variable: each kind has its own
            raise ValueError(
                f"--distributed: got the environment of a {kind.__name__} that JAX cannot read "
                f"({type(error).__name__}: {error!s:.150}); wanted its number of tasks. Give --distributed "
                "HOST:PORT,COUNT,INDEX, or off for one process"
            ) from error
    return None


def local_devices() -> dict[str, Any]:
    """The devices of the only task of a Slurm node: all, where JAX would take the first."""
    tasks, gpus = os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""), os.environ.get("SLURM_GPUS_ON_NODE", "")
    if tasks.partition("(")[0] == "1" and gpus.isdecimal() and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        return {"local_device_ids": range(int(gpus))}
    return {}


def _is_indexed_job() -> bool:
    """Whether this is a pod of a Kubernetes job whose pods are numbered."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ or "JOB_COMPLETION_INDEX" not in os.environ:
        return False
    try:
        import kubernetes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "--distributed: got a Kubernetes job with numbered pods, and no kubernetes package to read their "
            "number; wanted it. pip install 'jax[k8s]', or give --distributed HOST:PORT,COUNT,INDEX, or off "
            "for runs of their own"
        ) from error
    return True
