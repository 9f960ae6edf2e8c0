"""An MLflow experiment that is open for writing: its runs' tags, metrics and artifacts."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core.links import regular_files
from harness.tracking import schema
from harness.tracking.checksums import covers, with_checksums
from harness.tracking.locations import check_file, place_of_new_files, refuse_foreign, run_folder_to_write
from harness.tracking.migration import Announce
from harness.tracking.places import correct_addresses, refuse_missing
from harness.tracking.server_errors import PAGE, Failure
from harness.tracking.store import RefusedFile, ServerError, connect, default_tracking_uri, is_server, wrap_errors
from harness.tracking.trash import refuse_deleted

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_MAX_TRIES: Final = 3  # of an artifact, while the server answers that it failed
_SLUG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Experiment:
    """Writes to runs by their ids. It never uses MLflow's active run, which MLflow keeps per thread.

    Args:
        name: the experiment's name, a slug; created where it is missing.
        uri: MLflow's tracking address, by default `default_tracking_uri()`. A SQLite file is created where it is
            missing. Where artifacts go: `place_of_new_files`.
        announce: see `connect`.
        take_over: correct the addresses of a moved store also if a process of another machine seems to use it.

    Attributes:
        moved: what was corrected because the store was moved or copied, in one line; empty if nothing was.
        refused: run id and artifact path → why, of the artifacts that the server did not accept, or that a link was in
            the way of.

    Raises:
        TrackingError: the store cannot be used, or the experiment's files are outside its own root. Every method raises
            it where the store refuses or does not answer.
    """

    def __init__(
        self, name: str, uri: str | None = None, announce: Announce | None = None, take_over: bool = False
    ) -> None:
        assert _SLUG.fullmatch(name), f"an experiment's name is a slug, found {name!r}"
        self.name = name
        self.uri = uri or default_tracking_uri()
        self.client = connect(self.uri, create=True, announce=announce)
        self.moved = wrap_errors()(correct_addresses)(self.client, take_over)
        self.id = self._open()
        self.refused: dict[tuple[str, str], Failure] = {}
        self._tries: Counter[tuple[str, str]] = Counter()
        self._sent: dict[str, set[Path]] = {}  # run id → paths of files that were sent and not yet looked for
        self._folders: dict[str, Path | None] = {}  # run id → the folder of its artifacts; None: not on this disk

    @wrap_errors()
    def _open(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            tags = {schema.EXPERIMENT_KIND: schema.MODEL_TRAINING}
            try:
                return str(self.client.create_experiment(self.name, place_of_new_files(self.uri), tags=tags))
            except MlflowException:  # another process created it meanwhile, or the store refuses
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        refuse_deleted(found, self.uri)
        refuse_missing(found, self.uri)
        refuse_foreign(self.client, found)
        return str(found.experiment_id)

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or everything inside a folder, in the run's artifact folder `folder` (None: the top).

        Regular files only: links are left out. A file that the server refuses, or that has a link in its place, is
        noted in `refused`, and the others are stored.
        """
        for file, place in _files(path, Path(folder or "")):
            with self.optional(run_id, (place / file.name).as_posix()):
                self._store(run_id, file, place)

    def _store(self, run_id: str, file: Path, place: Path) -> None:
        """Store a file in a folder of a run's artifacts.

        Raises:
            RefusedFile: the run's artifacts are outside the store's own root, or a link is in the way.
        """
        if run_id not in self._folders:
            self.admit(self.client.get_run(run_id))
        root = self._folders[run_id]
        if root is not None:
            check_file(root, (place / file.name).as_posix())
        self.client.log_artifact(run_id, str(file), None if place == Path() else place.as_posix())
        self._sent.setdefault(run_id, set()).add(place / file.name)

    def admit(self, run: Run) -> None:
        """Check that a run's artifacts are inside the store's own root, which is needed once.

        Raises:
            RefusedFile: they are not.
        """
        self._folders[run.info.run_id] = run_folder_to_write(self.client, run)

    @wrap_errors()
    def log_contents(self, run_id: str, files: Mapping[str, str | bytes], required: bool = False) -> None:
        """Store contents under their artifact paths, text in UTF-8 (MLflow's `log_text` uses the locale's encoding).

        Args:
            run_id: of the run.
            files: artifact path → content.
            required: raise if one is refused; else it is noted in `refused`.
        """
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
            if required:
                for file, place in _files(Path(folder), Path()):
                    self._store(run_id, file, place)
            else:
                self.log_artifact(run_id, Path(folder))

    @wrap_errors()
    def check_uploads(self, run_id: str) -> None:
        """Check that a server has the files of a run that were sent to it.

        MLflow notices no error if a proxy answers an upload with a page and status 200.
        """
        sent = self._sent.pop(run_id, set())
        if not is_server(self.uri):
            return
        for folder in sorted({path.parent for path in sent}):
            place = None if folder == Path() else folder.as_posix()
            stored = {Path(file.path) for file in self.client.list_artifacts(run_id, place)}
            for path in sorted(path for path in sent - stored if path.parent == folder):
                with self.optional(run_id, path.as_posix()):
                    raise ServerError(f"MLflow: {PAGE}", PAGE)

    @contextlib.contextmanager
    def optional(self, run_id: str, path: str) -> Iterator[None]:
        """Store an artifact inside: if it is refused, it is noted in `refused`, and nothing is raised.

        Raises:
            TrackingError: trying again may help: the server did not answer, or failed for the first or second time.
        """
        key = (run_id, path)
        try:
            with wrap_errors():
                yield
        except RefusedFile as error:
            self.refused[key] = error.failure
        except ServerError as error:
            self._tries[key] += 1
            answered = error.failure.status is not None
            if not (error.failure.final or (answered and self._tries[key] >= _MAX_TRIES)):
                raise
            self.refused[key] = error.failure
        else:
            self.refused.pop(key, None)

    @wrap_errors()
    def log(self, run_id: str, tags: Mapping[str, str], metrics: Sequence[Metric] = ()) -> None:
        """Store tags by their full names, and metrics, in as few requests as MLflow allows.

        Checksums of tags that decide numbers are stored in the same request.
        """
        from mlflow.entities import RunTag

        tags = clipped_tags(tags)
        if covers(tags) and schema.CHECKSUMS not in tags:
            known = self.client.get_run(run_id).data.tags.get(schema.CHECKSUMS)
            if known is not None:  # a run of an older version has none
                tags = with_checksums(tags, known)
        run_tags = [RunTag(name, value) for name, value in tags.items()]
        self.client.log_batch(run_id, metrics=metrics, tags=run_tags)


def _files(path: Path, place: Path) -> list[tuple[Path, Path]]:
    """A regular file, or those below a folder, each with the folder in which it is stored, from `place` on."""
    if path.is_symlink():
        return []
    if not path.is_dir():
        return [(path, place)]
    return [(file, place / file.relative_to(path).parent) for file in regular_files(path)]


def clipped_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags, cut to the length that MLflow stores."""
    return {name: schema.clipped(value, schema.TAG_LIMIT) for name, value in tags.items()}
