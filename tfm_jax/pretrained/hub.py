"""Checkpoints of the Hugging Face hub, with an answer within seconds when the hub cannot be reached."""

import re
from pathlib import Path

import huggingface_hub

from tfm_jax.hub import HubUnavailableError, why_unreachable

__all__ = ["HubUnavailableError", "directory_of"]

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]
_PICKLES = ["*.bin"]


def directory_of(path_or_repo_id: str | Path, *, allow_pickle: bool = False) -> Path:
    """The directory of a checkpoint: the one that was named, or a snapshot of a repository of the hub.

    Args:
      path_or_repo_id: a directory, or "owner/name".
      allow_pickle: fetch ``*.bin`` too.

    Returns:
      The directory, which exists.

    Raises:
      FileNotFoundError: for what is neither a directory nor the name of a repository.
      HubUnavailableError: where the hub cannot be reached, and the cache has no such repository.
      ValueError: where the hub has no such repository, or none that may be read without a login.
    """
    path = Path(path_or_repo_id)
    if path.is_dir():
        return path
    name = str(path_or_repo_id)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or path.is_file():
        raise FileNotFoundError(f"there is no directory {name}, and it is no name of the hub's: owner/name")
    reason = _why_unreachable(name)
    patterns = _FILES + _PICKLES * allow_pickle
    try:
        snapshot = huggingface_hub.snapshot_download(
            name, allow_patterns=patterns, local_files_only=reason is not None
        )
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        raise HubUnavailableError(
            f"the Hugging Face hub cannot be reached for {name!r} ({reason or error}), the local cache does "
            "not have it, and there is no such directory"
        ) from error
    return Path(snapshot)


def _why_unreachable(name: str) -> str | None:
    """Ask the hub for the repository; None if it answers that it has it."""
    if huggingface_hub.is_offline_mode():
        return "offline mode: HF_HUB_OFFLINE is set"
    not_there = lambda error: ValueError(
        f"the Hugging Face hub has no model {name!r} that may be read (mistyped, private, or in need of "
        f"a login: hf auth login), and there is no such directory here: {error}"
    )
    return why_unreachable(huggingface_hub.HfApi().model_info, name, not_there)
