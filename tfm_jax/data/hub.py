"""Data sets of the Hugging Face hub, with an answer within seconds when the hub cannot be reached."""

import contextlib
from collections.abc import Iterator
from typing import Any

import datasets
import huggingface_hub

from tfm_jax.data.builtin import SOURCES
from tfm_jax.hub import HubUnavailableError, why_unreachable

__all__ = ["HubUnavailableError", "load_hub"]

# The base of the hub's own error is that of all errors of its http client, whichever client that is.
_TROUBLE = (ConnectionError, TimeoutError, huggingface_hub.errors.HfHubHTTPError.__bases__[0])


def load_hub(
    name: str, config: str | None, split: str | None, *, streaming: bool = False, cache_dir: str | None = None
) -> Any:
    """Load a data set from the hub, or from the local cache where there is no hub.

    Args:
        name: "owner/name" or "name".
        config: which of the data set's configurations; None is its only or default one.
        split: the split; None for all of them.
        streaming: read while iterating instead of downloading first.
        cache_dir: where the library keeps its files; None is its own choice.

    Returns:
        What ``datasets.load_dataset`` returns.

    Raises:
        HubUnavailableError: within seconds, or when the download fails; names the sources that need no
            network.
        ValueError: the hub has no such data set, or none that may be read without a login.
    """
    load = lambda: datasets.load_dataset(name, config, split=split, streaming=streaming, cache_dir=cache_dir)
    reason = _why_unreachable(name)
    if reason is None:
        try:
            return load()
        except datasets.exceptions.DatasetNotFoundError as error:  # such as one that wants its terms accepted
            raise _not_there(name, error) from error
        except Exception as error:
            trouble = _network_trouble(error)
            if trouble is None:
                raise
            raise _unavailable(name, f"{type(trouble).__name__}: {trouble}; try again") from error
    try:
        with _offline():  # else the library tries, and waits, again and again
            return load()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith("Couldn't find cache"):
            raise  # the cache has the data set, but not the split, say
        raise _unavailable(name, reason) from error


def _why_unreachable(name: str) -> str | None:
    """Ask the hub for the data set; None if it answers that it has it."""
    if huggingface_hub.is_offline_mode() or datasets.config.HF_HUB_OFFLINE:
        return "offline mode: HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
    info = huggingface_hub.HfApi().dataset_info
    return why_unreachable(info, name, lambda error: _not_there(name, error))


def _not_there(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"the Hugging Face hub has no data set {name!r} that may be read (mistyped, private, or in need "
        f"of a login: hf auth login), and there is no such file here: {error}"
    )


def _unavailable(name: str, reason: str) -> HubUnavailableError:
    return HubUnavailableError(
        f"the Hugging Face hub cannot be reached for the data set {name!r} ({reason}), and the local "
        f"cache does not have it. Sources without a network: {', '.join(map(repr, SOURCES))}, or the path of "
        "a file or directory"
    )


def _network_trouble(error: BaseException | None) -> BaseException | None:
    """The failure of the network or the hub that an error was raised for, if there is one."""
    while error is not None and not isinstance(error, _TROUBLE):
        error = error.__cause__
    return error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """As if HF_HUB_OFFLINE had been set before the libraries were imported."""
    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
