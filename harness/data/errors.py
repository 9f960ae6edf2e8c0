"""The error for a corpus, tokenizer or split that cannot be used."""

from __future__ import annotations


class CorpusError(ValueError):
    """A corpus, tokenizer or split cannot be used, and the user can fix it.

    Attributes:
        field: the field to change, such as "data.path", or "GPT_HARNESS_CACHE" if the cache folder is unusable.
        message: one sentence: what was found and what is allowed. Equals `str(error)`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)  # both in `args`, so that the error can be pickled
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return self.message


def reason(error: Exception) -> str:
    """Why a file or a download failed: the HTTP status, the system's message, or the exception's name."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return getattr(error, "strerror", None) or type(error).__name__
