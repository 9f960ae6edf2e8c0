"""What the parent does for the nodes of a Ray cluster: it sends tokens and deletes the states of finished runs."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.config.run import DataConfig
from harness.data import open_dataset
from harness.data.encoded import EncodedData, describe_encoded
from harness.tracking.outbox.places import PlaceRequests
from harness.workers.messages import Away, Job
from harness.workers.shared import brief, remove_states

Tokens = Mapping[str, Sequence[Any]]  # file name → references to its pieces in Ray's object store

_PIECE_BYTES: Final = 1 << 26  # of a token file in the object store
_CLOSE_SECONDS: Final = 5.0  # how long to wait for removals at the end


def _encoded(config: DataConfig) -> EncodedData:
    return describe_encoded(open_dataset(config, compare=False), config)


class NodeFiles:
    """What jobs need on nodes that have another disk than this process.

    Args:
        shared: folder or address for copies of states; None: there is none.
        data: gives the description of a data set that this process has encoded.
        say: shows a sentence to the user.
        places: gives places in the artifact store, where nodes store weights; None: weights come to this process.
    """

    def __init__(
        self,
        shared: str | None = None,
        data: Callable[[DataConfig], EncodedData] = _encoded,
        say: Callable[[str], None] = lambda _: None,
        places: PlaceRequests | None = None,
    ) -> None:
        self.places = places
        self._shared, self._data, self._say = shared, data, say
        self._encoded: dict[DataConfig, EncodedData] = {}
        self._tokens: dict[str, Tokens] = {}  # by fingerprint; holding the references keeps the objects
        self._removals: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._remover: threading.Thread | None = None

    def prepared(self, job: Job) -> Job:
        """The job with absolute paths and with what another node needs."""
        config = job.config.data.texts
        if config not in self._encoded:
            self._encoded[config] = self._data(config)
        return dataclasses.replace(
            job,
            checkpoint=job.checkpoint and job.checkpoint.absolute(),
            state=job.state and job.state.absolute(),
            away=Away(self._encoded[config], self._shared),
        )

    def tokens(self, job: Job) -> Tokens:
        """The token files of a prepared job, put into the object store the first time."""
        assert job.away is not None
        data = job.away.data
        if data.fingerprint not in self._tokens:
            import ray

            self._tokens[data.fingerprint] = {
                name: [ray.put(piece) for piece in _pieces(file)] for name, file in data.files.items()
            }
        return self._tokens[data.fingerprint]

    def remove_states(self, run: str) -> None:
        """Delete shared copies of states in the background: of `SWEEP/RUN`, or of all runs of a `SWEEP`."""
        if self._shared is None:
            return
        if self._remover is None:
            self._remover = threading.Thread(target=self._remove, args=(self._shared,), name="remover", daemon=True)
            self._remover.start()
        self._removals.put(run)

    def close(self) -> None:
        """Wait for removals that are under way, but not long, and let go of the token files."""
        self._tokens.clear()
        if self._remover is not None:
            self._removals.put(None)
            self._remover.join(_CLOSE_SECONDS)

    def _remove(self, shared: str) -> None:
        said = False
        while (run := self._removals.get()) is not None:
            try:
                remove_states(shared, run)
            except Exception as error:  # whatever the place's library raises: they only take space
                if not said:
                    self._say(f"states of runs that have ended stay in the shared place: {brief(error)}")
                said = True


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def read_tokens(tokens: Tokens) -> Mapping[str, Iterator[bytes]]:
    """The contents behind `NodeFiles.tokens`, each piece fetched when it is needed."""
    import ray

    def contents(pieces: Sequence[Any]) -> Iterator[bytes]:
        for piece in pieces:
            yield ray.get(piece)

    return {name: contents(pieces) for name, pieces in tokens.items()}
