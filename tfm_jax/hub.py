"""The Hugging Face hub, with an answer within seconds when it cannot be reached."""

import threading
from collections.abc import Callable
from typing import Any

import huggingface_hub

__all__ = ["TIMEOUT", "HubUnavailableError", "why_unreachable"]

TIMEOUT = 5.0  # seconds


class HubUnavailableError(ConnectionError):
    """The hub cannot be reached, and what was asked for is not in the local cache."""


def why_unreachable(
    info: Callable[..., Any], name: str, not_there: Callable[[Exception], Exception]
) -> str | None:
    """Asks the hub for a repository.

    Args:
      info: of the hub's client, such as ``huggingface_hub.HfApi().model_info``.
      name: of the repository.
      not_there: makes of the hub's answer the error to raise where it has none that may be read.

    Returns:
      None if the hub answers that it has it; else, in words, why it cannot be asked.

    Raises:
      What ``not_there`` gives.
    """
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            # One small field: a full answer, with all files, may take the hub longer than the timeout.
            info(name, timeout=TIMEOUT, expand=["sha"])
            answers.append(None)
        except Exception as error:
            answers.append(error)

    # The timeout does not cover the look-up of the host's name, which may hang for longer; the thread does.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 1)
    if not answers:
        return f"no answer within {TIMEOUT:.0f} seconds"
    error = answers[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404) or isinstance(error, huggingface_hub.errors.HFValidationError):
        raise not_there(error) from error
    return None if error is None else f"{type(error).__name__}: {error}"
