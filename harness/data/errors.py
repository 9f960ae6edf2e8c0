"""What can be wrong with the data of a run."""

from __future__ import annotations


class CorpusError(ValueError):
    """A corpus, tokenizer or split that cannot be used, for a reason its user can mend.

    Attributes:
        field: the configuration field to change, such as "data.path". "GPT_HARNESS_CACHE" where the cache folder is
            the trouble.
        message: one sentence with what was found and what is allowed; `str()` gives the same.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)  # both in `args`, so that a worker's error survives pickling
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return self.message


def reason(error: Exception) -> str:
    """Why a file or a download failed, in a few words: the system's own, the HTTP status, or the error's name."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return getattr(error, "strerror", None) or type(error).__name__
