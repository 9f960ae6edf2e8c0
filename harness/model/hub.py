"""Downloads a GPT-2 from the Hugging Face hub, once: later commands find it in the hub's cache on this machine."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from harness.config.starting import INIT_FROM, StartError

CONFIG: Final = "config.json"
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_FILES: Final = (CONFIG, SINGLE, INDEX, "model-*-of-*.safetensors")  # all else stays on the hub
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_ID: Final = re.compile(r"(?!.*(--|\.\.))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)


def may_be_hub_id(name: str) -> bool:
    """Whether a text can be a repository of the hub, such as `openai-community/gpt2`."""
    return _ID.fullmatch(name) is not None


def download(name: str) -> Path:
    """The folder of a model's configuration and weights, from the cache or else from the hub.

    What is in the cache is taken as it is, without asking the hub whether there is something newer.

    Args:
        name: of the repository.

    Raises:
        StartError: it is neither in the cache nor on the hub, or huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        wanted = f'huggingface_hub to get the hub\'s model {name}: pip install -e ".[hub]"'
        raise StartError((INIT_FROM, f"found no folder {name}; allowed: a folder, or {wanted}")) from None
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        if (cached / CONFIG).exists() and _has_weights(cached):
            return cached
    except (OSError, HFValidationError):  # not in the cache
        pass
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        why = f"the hub answered {status}" if status else f"the hub failed: {_line(error)}"
        private = "; a private or gated one needs `hf auth login`" if status in (401, 403, 404) else ""
        raise StartError((INIT_FROM, f"{_nowhere(name)} ({why}); allowed: a model of the hub{private}")) from error
    except Exception as error:  # also whatever its HTTP library raises
        if isinstance(error, OSError) and error.errno in _DISK:
            why = f"cannot be written ({error.strerror}: {error.filename})"
            raise StartError((INIT_FROM, f"the hub's cache {why}; allowed: room for {name}, see HF_HOME")) from error
        offline = "HF_HUB_OFFLINE is set" if _offline() else "the hub cannot be reached"
        get = f"on a machine with network access run `hf download {name} {CONFIG} {SINGLE} --local-dir DIR` and"
        raise StartError((INIT_FROM, f"{_nowhere(name)}, and {offline}; allowed: a folder: {get} copy DIR")) from error
    if not _has_weights(folder):
        pickles = "a pickle of the same weights could run any code, and is not read"
        raise StartError((INIT_FROM, f"found no {SINGLE} in the hub's {name}; allowed: one that has it ({pickles})"))
    return folder


def _has_weights(folder: Path) -> bool:
    return any((folder / file).exists() for file in (SINGLE, INDEX))


def _nowhere(name: str) -> str:
    return f"found no folder {name} and no model of this name in the hub's cache"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
