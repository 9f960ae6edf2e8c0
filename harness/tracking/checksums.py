"""Checksums of what the harness stored with a run: tags, parameters and last losses that decide numbers.

MLflow's tags can be edited by anybody, and its database has no checksums. So each run has a tag with a short checksum
of every value that the harness relies on. A person may edit descriptions and add tags; a value that was changed is
named, and its run is left out or refused. Runs of older versions have no such tag and are not checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from harness.core.text import listed, printable
from harness.tracking import schema

if TYPE_CHECKING:
    from mlflow.entities import Run

_TAGS: Final = frozenset(
    {
        *(schema.ROLE, schema.PARENT_RUN, schema.IDENTITY, schema.OPENED, schema.PLAN_SHA256, schema.KEY, schema.ARM),
        *(schema.PHASE, schema.SEED, schema.STUDY, schema.TRIAL_NUMBER, schema.CONFIG_SHA256, schema.OUTCOME),
        *(schema.DATA_SHA256, schema.DATA_FINGERPRINT),
    }
)
_PARAMS: Final = "parameters"  # all of a run's configuration together
# Beginnings of the names of a run's configuration; a person may add other parameters.
OWN_PARAMS: Final = ("data.", "model.", "train.", schema.PARAMETERS, schema.FLOPS_PER_TOKEN)
_LENGTH: Final = 8  # hex digits
_NAMES_SHOWN: Final = 5
_NAME_SHOWN: Final = 80  # characters


def covers(tags: Iterable[str]) -> bool:
    """Whether one of these tags has a checksum."""
    return not _TAGS.isdisjoint(tags)


def with_checksums(
    tags: Mapping[str, str],
    known: str = "",
    params: Mapping[str, str] | None = None,
    losses: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Tags of a run with the tag of their checksums.

    Args:
        tags: that are stored now, as MLflow keeps them.
        known: the checksums that the run has already; those of these values are replaced.
        params: the run's parameters.
        losses: metric → its last value in MLflow.
    """
    found = _parse(known) | {name: _digest(name, tags[name]) for name in _TAGS & tags.keys()}
    if params is not None:
        found[_PARAMS] = _digest_params(params)
    found |= {name: _digest(name, repr(float(value))) for name, value in (losses or {}).items()}
    return {**tags, schema.CHECKSUMS: " ".join(f"{name}={digest}" for name, digest in sorted(found.items()))}


def altered(run: Run) -> str:
    """A sentence that names what was changed in a run after the harness stored it; empty if nothing was.

    The outcome and the losses of a run that is RUNNING are not stored yet.
    """
    tags, values = run.data.tags, run.data.metrics
    if schema.CHECKSUMS not in tags:
        return ""
    expected = _parse(tags[schema.CHECKSUMS])
    found = {name: _digest(name, tags[name]) for name in _TAGS & tags.keys()}
    found |= {name: _digest(name, repr(float(values[name]))) for name in expected.keys() & values.keys()}
    params = _own(run.data.params)
    if params and _PARAMS in expected:
        found[_PARAMS] = _digest_params(params)
    else:  # they are stored right after the tags
        expected.pop(_PARAMS, None)
    names = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    if run.info.status == "RUNNING":
        names = {name for name in names if name == _PARAMS or name in _TAGS - {schema.OUTCOME}}
    elif tags.get(schema.ROLE) == schema.SWEEP:  # nothing depends on a sweep's outcome
        names.discard(schema.OUTCOME)
    if not names:
        return ""
    kinds = {name: "tag " if name in _TAGS else "metric " for name in names - {_PARAMS}}
    words = [f"{kinds.get(name, '')}{schema.clipped(name, _NAME_SHOWN)}" for name in sorted(names)]
    rest = len(words) - _NAMES_SHOWN
    what = listed([*words[:_NAMES_SHOWN], f"{rest} more"] if rest > 0 else words)
    verb = "was" if len(names) == 1 and _PARAMS not in names else "were"
    return printable(f"the {what} of the run {named(run)} {verb} changed after the harness stored it")


def stored_identity_was(run: Run, identity: str) -> bool | None:
    """Whether the harness stored this identity with a sweep's run, whatever its tag says now; None if unknown."""
    digest = _parse(run.data.tags.get(schema.CHECKSUMS, "")).get(schema.IDENTITY)
    return None if digest is None else digest == _digest(schema.IDENTITY, identity)


def named(run: Run) -> str:
    """A run in a sentence: its id and its name, as one line."""
    return printable(f"{run.info.run_id} ({schema.clipped(run.info.run_name or '', _NAME_SHOWN)})")


def _parse(text: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in text.split())
    return {name: digest for name, _, digest in pairs}


def _digest(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode("utf-8", "replace")).hexdigest()[:_LENGTH]


def _digest_params(params: Mapping[str, str]) -> str:
    return _digest(_PARAMS, json.dumps(_own(params), sort_keys=True))


def _own(params: Mapping[str, str]) -> dict[str, str]:
    """Those of a run's configuration; a person may add others."""
    return {name: value for name, value in params.items() if name.startswith(OWN_PARAMS)}
