"""Finds weights to start from, `model.init_from`, and checks them before anything trains; needs no torch.

They are a folder with Hugging Face's GPT-2, a repository of its hub, a checkpoint folder of this harness, or a run.
Only safetensors files are read: a pickle can run any code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from harness.config.run import RunConfig
from harness.config.starting import INIT_FROM, StartError, StartWeights, started_config
from harness.core.bounded_json import read_json
from harness.core.files import DamagedError, read_json_with_checksum, sha256_of
from harness.core.links import read_bounded
from harness.core.paths import DESCRIPTION, WEIGHTS
from harness.core.text import shown
from harness.core.unchanged import Identity, identity_of
from harness.model.hub import CONFIG, INDEX, SINGLE, download, may_be_hub_id
from harness.model.hugging_face_config import OtherModelError, fields_from_hugging_face
from harness.model.tensor_file import TYPES, Stored, TensorFileError, are_equal, first_infinite, is_zero, read_header
from harness.model.tensor_shapes import HEAD, NOTHING, TOKENIZER_FILE, Shapes, our_shapes, their_shapes

RUN: Final = "run:"
PREFIX: Final = "transformer."  # of the names in a model with a head; a model without one has none
_SCRATCH: Final = "scratch"  # nanoGPT's word for random weights
_BUFFERS: Final = (".attn.bias", ".attn.masked_bias")  # the causal mask, which old files hold
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")
_JSON_BYTES: Final = 10_000_000  # at most


@dataclass(frozen=True)
class Source:
    """Weights to start from, found and checked.

    Attributes:
        weights: the facts about them.
        theirs: whether they have Hugging Face's names and shapes.
        files: tensor → its file, without the prefix of its name.
        prefix: of the names in the files.
    """

    weights: StartWeights
    theirs: bool
    files: Mapping[str, Path]
    prefix: str = ""


def find_source(name: str, uri: str | None = None, folder: Path | None = None) -> Source:
    """Find weights and check them: the configuration, every name and shape, and that all values are finite.

    Args:
        name: a folder, `run:` with a run's id or name, or a repository of the hub. An existing folder comes first.
        uri: MLflow's tracking address; by default the one that sweeps use.
        folder: where the weights are, if it is known already and exists on this machine.

    Raises:
        StartError: there are none, or they cannot be used.
    """
    found, known = "", folder
    if folder is None or not folder.is_dir():
        try:
            folder, found = _locate(name, uri)
        except StartError as error:
            if known is None:
                raise
            message = f"this machine has no folder {known}, which the sweep starts from, and {error.mistakes[0][1]}"
            raise _error(message) from error
    try:
        reader = _read_ours if (folder / DESCRIPTION).exists() else _read_theirs
        return reader(name, folder.absolute(), found)
    except OSError as error:
        raise _error(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise _error(f"{folder}: is larger than the memory") from error


def with_source(config: RunConfig) -> RunConfig:
    """A run with the sizes and the SHA-256 of its weights to start from, if only their name is known so far.

    Raises:
        StartError: as `find_source`, or the configuration does not fit them.
    """
    if config.model.init_from is None or config.model.init_sha256 is not None:
        return config
    return started_config(config.model_dump(exclude_unset=True), lambda name: find_source(name).weights)


def _locate(name: str, uri: str | None) -> tuple[Path, str]:
    """The folder that a name means; and a sentence about it if it could mean something else."""
    if name.startswith(RUN):
        return _folder_of_run(name, uri), ""
    if name == _SCRATCH:
        raise _error(f"found {name}; allowed: null for random weights, a folder, a hub id or run:RUN")
    try:
        place = Path(name).expanduser()
        is_folder, exists = place.is_dir(), place.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null character, no such home
        raise _error(f"found {shown(name)}; allowed: a folder, a hub id or run:RUN") from error
    if is_folder:
        both = may_be_hub_id(name)
        return place, f"{name}: the folder of this name is taken, not a model of the hub" if both else ""
    if exists:
        raise _error(f"found the file {name}; allowed: the folder that has {CONFIG} and {SINGLE}")
    if not may_be_hub_id(name):
        raise _error(
            f"found no folder {shown(name)}; allowed: a folder with {CONFIG} and {SINGLE}, a hub id or run:RUN"
        )
    return download(name), ""


def _folder_of_run(name: str, uri: str | None) -> Path:
    from harness.tracking import TrackingError, checkpoint_folder  # here because MLflow takes seconds

    try:
        return checkpoint_folder(name.removeprefix(RUN), uri)
    except TrackingError as error:
        more = "" if "allowed: " in str(error) else "; allowed: a run with a checkpoint, or a folder"
        raise _error(f"{error}{more}") from error


def _read_ours(name: str, folder: Path, found: str) -> Source:
    """A checkpoint of this harness."""
    description, file = folder / DESCRIPTION, folder / WEIGHTS
    try:
        content, _ = read_json_with_checksum(read_bounded(description, _JSON_BYTES))
        config = RunConfig.model_validate_json(json.dumps(content["config"]))
        wanted = str(content["sha256"])
    except DamagedError as error:
        raise _error(f"{description}: {error} (damaged file)") from error
    except (ValidationError, LookupError, TypeError, ValueError) as error:
        raise _error(f"{description}: cannot be read as a checkpoint's description") from error
    if config.data.vocab != "full":
        raise _error(f"found data.vocab {config.data.vocab} in {name}; allowed: a run with data.vocab full")
    model = config.model
    fields = {**model.model_dump(exclude={"init_from", "init_sha256"}), "vocab_size": config.vocab_size}
    _refuse_missing([file])
    header = _header(file)
    _compare({file: header}, our_shapes(fields), header.keys() - {TOKENIZER_FILE})
    sha256, infinite = _content([file])
    if sha256 != wanted:
        raise _error(f"{file}: found SHA-256 {sha256[:16]}…, allowed: {wanted[:16]}… (damaged file)")
    _refuse_infinite(infinite)
    tokenizer = _tokenizer_sha256(file, header[TOKENIZER_FILE]) if TOKENIZER_FILE in header else ""
    weights = StartWeights(name, folder, sha256, fields, str(model.drop_rate), config.data.tokenizer, tokenizer, found)
    return Source(weights, False, dict.fromkeys(header, file))


def _tokenizer_sha256(file: Path, stored: Stored) -> str:
    """The SHA-256 of what defines the tokenizer of a checkpoint."""
    with file.open("rb") as stream:
        stream.seek(stored.start)
        return hashlib.sha256(stream.read(math.prod(stored.shape)).removesuffix(NOTHING)).hexdigest()


def _read_theirs(name: str, folder: Path, found: str) -> Source:
    """A GPT-2 of Hugging Face's transformers."""
    path = folder / CONFIG
    files = _tensor_files(name, folder)
    try:
        config = read_json(read_bounded(path, _JSON_BYTES))
        if not isinstance(config, dict):
            raise ValueError("is not a JSON object")
        fields, dropout = fields_from_hugging_face(config)
    except OtherModelError as error:
        raise _error(f"{path}: {error}") from error
    except FileNotFoundError:
        raise _error(f"found no {CONFIG} in {folder}; allowed: a folder as save_pretrained writes it") from None
    except ValueError as error:
        raise _error(f"{path}: {error}") from error
    headers = {file: _header(file) for file in files}
    names = {stored for header in headers.values() for stored in header}
    prefix = PREFIX if any(stored.startswith(PREFIX) for stored in names) else ""
    kept = {stored for stored in names if not stored.endswith(_BUFFERS)}
    tied = fields["tie_embeddings"]
    shapes = {f"{prefix}{tensor}": shape for tensor, shape in their_shapes(fields).items()}
    head = {HEAD: (fields["vocab_size"], fields["emb_dim"])}
    if not tied or kept & head.keys():  # a tied head may be stored a second time; it is compared below
        shapes |= head
    _compare(headers, shapes, kept)
    sha256, infinite = _content(files)
    _refuse_infinite(infinite)
    _check_values(
        folder,
        fields,
        prefix,
        {tensor: (file, header[tensor]) for file, header in headers.items() for tensor in header},
    )
    where = {tensor.removeprefix(prefix): file for file, header in headers.items() for tensor in header}
    return Source(StartWeights(name, folder, sha256, fields, dropout, found=found), True, where, prefix)


def _check_values(
    folder: Path, fields: Mapping[str, Any], prefix: str, tensors: Mapping[str, tuple[Path, Stored]]
) -> None:
    """Refuse biases that the configuration denies, and a second head where it says that there is one table."""
    for layer in range(0 if fields["qkv_bias"] else fields["n_layers"]):
        name = f"{prefix}h.{layer}.attn.c_attn.bias"
        if not is_zero(*tensors[name]):
            raise _error(f"{folder}: found {name} that is not zero with qkv_bias false; allowed: zeros, or true")
    table = tensors[f"{prefix}wte.weight"]
    if fields["tie_embeddings"] and HEAD in tensors and not are_equal(tensors[HEAD], table):
        message = f"found {HEAD} that is not {prefix}wte.weight with tie_word_embeddings true; allowed: equal, or false"
        raise _error(f"{folder}: {message}")


def _tensor_files(name: str, folder: Path) -> list[Path]:
    """The files with the weights of a Hugging Face folder, by name."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.exists():
        try:
            names = sorted(set(read_json(read_bounded(index, _JSON_BYTES))["weight_map"].values()))
            if not names or any(Path(part).name != part or not part.endswith(".safetensors") for part in names):
                raise TypeError
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _error(f"{index}: is no index of safetensors files") from error
        files = [folder / part for part in names]
        _refuse_missing(files)
        return files
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise _error(
            f"found {pickles[0]} in {name}, a pickle, which can run any code; allowed: {SINGLE}: load the model with a "
            "transformers that you trust and call save_pretrained"
        )
    raise _error(
        f"found no {SINGLE} in {folder}; allowed: a GPT-2 as save_pretrained writes it, or a checkpoint folder"
    )


def _refuse_missing(files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file():
            raise _error(f"found no {file.name} in {file.parent}; allowed: a folder with all of its files")


def _header(file: Path) -> dict[str, Stored]:
    try:
        return read_header(file)
    except TensorFileError as error:
        raise _error(f"{file}: {error}") from error


def _compare(headers: Mapping[Path, Mapping[str, Stored]], shapes: Shapes, kept: Collection[str]) -> None:
    """Compare the tensors of some files with those that the configuration asks for."""
    folder = next(iter(headers)).parent
    found: dict[str, Stored] = {}
    for file, header in headers.items():
        if twice := found.keys() & header.keys():
            raise _error(f"{file}: found {min(twice)} a second time; allowed: each tensor once")
        found |= header
    wrong = {"no tensor": shapes.keys() - found.keys(), "the unknown tensor": set(kept) - shapes.keys()}
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            allowed = "those of the GPT-2 in its configuration"
            raise _error(f"{folder}: found {what} {shown(min(names))}{more}; allowed: {allowed}")
    for name, shape in shapes.items():
        stored = found[name]
        if stored.shape != shape:
            message = f"found {name} with the shape {list(stored.shape)}; allowed: {list(shape)}, by its configuration"
            raise _error(f"{folder}: {message}")
        if stored.dtype not in TYPES:
            raise _error(f"{folder}: found {name} in {stored.dtype}; allowed: {', '.join(TYPES)}")


def _content(files: Sequence[Path]) -> tuple[str, str]:
    """As `_content_of`, which reads files that have not changed since only once."""
    return _content_of(tuple((file, identity_of(file)) for file in files))


@functools.lru_cache(maxsize=64)
def _content_of(files: tuple[tuple[Path, Identity], ...]) -> tuple[str, str]:
    """The SHA-256 of weights, and `FILE: TENSOR` of the first tensor that is not finite.

    Of one file it is the SHA-256 of its bytes. Of several it is that of the lines that `sha256sum` prints for them.
    """
    lines, infinite = [], ""
    for path, _ in files:
        lines.append(f"{sha256_of(path)}  {path.name}\n")
        header = {name: stored for name, stored in read_header(path).items() if stored.dtype in TYPES}
        tensor = first_infinite(path, header)
        infinite = infinite or (f"{path}: {tensor}" if tensor else "")
    whole = lines[0].split()[0] if len(lines) == 1 else hashlib.sha256("".join(lines).encode()).hexdigest()
    return whole, infinite


def _refuse_infinite(where: str) -> None:
    if where:
        file, _, tensor = where.rpartition(": ")
        raise _error(f"{file}: found weights that are NaN or infinite, in {tensor}; allowed: finite weights")


def _error(message: str) -> StartError:
    return StartError((INIT_FROM, message))
