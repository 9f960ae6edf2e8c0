"""Downloads with a known SHA-256, which stop at a limit: a server may send for ever."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from harness.core.links import open_regular
from harness.core.secrets import complete
from harness.data.cache import make_private, refuse_shared, unusable_cache
from harness.data.errors import CorpusError, reason

if TYPE_CHECKING:
    from requests import Response

_TIMEOUT: Final = 30.0  # seconds without data
_CHUNK: Final = 1 << 16  # bytes


class TooLargeError(Exception):
    """A download has more bytes than allowed."""


def fetch(url: str, sha256: str, folder: Path, limit: int) -> Path:
    """The file with this SHA-256 in `folder`; it is downloaded if it is not there.

    Args:
        url: its address.
        sha256: in hex.
        folder: that keeps it.
        limit: bytes to receive at most, counted after a server's compression.

    Raises:
        TooLargeError: the server names or sends more. Nothing is kept.
        requests.RequestException: the server does not answer, or with an error.
        OSError: the folder cannot be written.
        ValueError: the content has another SHA-256. Nothing is kept.
    """
    import pooch

    file = folder / sha256
    if file.exists():
        open_regular(file).close()  # pooch would wait for a pipe

    received: list[Response] = []

    def refuse_large(response: Response, **_: Any) -> None:
        received.append(response)
        if response.is_redirect:
            response.close()  # requests would read what comes with it, without a limit
        named = response.headers.get("Content-Length", "")
        if named.isdecimal() and int(named) > limit:
            raise TooLargeError

    get = pooch.HTTPDownloader(
        chunk_size=_CHUNK,
        timeout=_TIMEOUT,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": refuse_large},
    )

    def download(address: str, output: str, _: Any) -> None:
        try:
            with Path(output).open("wb") as stream:
                get(complete(address), _Limited(stream, limit), None)  # pooch prints `address`
        finally:
            for response in received:
                response.close()

    return Path(pooch.retrieve(url, known_hash=sha256, fname=sha256, path=folder, downloader=download))


class _Limited:
    """A file that takes up to `limit` bytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def write(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLargeError
        self._stream.write(chunk)

    def flush(self) -> None:
        self._stream.flush()


def download(url: str, sha256: str, folder: Path, limit: int) -> Path:
    """The file with this SHA-256; it is downloaded if it is not in `folder`, up to `limit` bytes.

    Raises:
        CorpusError: it cannot be downloaded or kept, or is another one.
    """
    from requests import RequestException

    refuse_shared(folder)
    try:
        make_private(folder)
        limit = min(limit, shutil.disk_usage(folder).free)
        return fetch(url, sha256, folder, limit)
    except TooLargeError:
        raise CorpusError(
            "data.url",
            f"found more than {limit / 1e9:,.1f} GB at {url!r}; allowed: text that fits on the disk, and its token ids "
            "into memory",
        ) from None
    except RequestException as error:
        raise CorpusError(
            "data.url", f"found {url!r}, which cannot be downloaded ({reason(error)}); allowed: an address that answers"
        ) from None
    except OSError as error:
        raise unusable_cache(folder, reason(error)) from None
    except ValueError:  # raised by pooch for another hash, after deleting the file
        raise CorpusError(
            "data.sha256", f"found other content at {url!r}; allowed: the file whose sha256 is {sha256}"
        ) from None
