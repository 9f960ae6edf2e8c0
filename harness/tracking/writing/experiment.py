"""An MLflow experiment that is open for writing: its runs' tags, metrics and artifacts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.tracking import schema
from harness.tracking.checksums import covers, with_checksums
from harness.tracking.places import artifacts_beside, correct_addresses, refuse_missing
from harness.tracking.store import connect, default_tracking_uri, wrap_errors
from harness.tracking.trash import refuse_deleted

if TYPE_CHECKING:
    from mlflow.entities import Metric

_SLUG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Experiment:
    """Writes to runs by their ids. It never uses MLflow's active run, which MLflow keeps per thread.

    Args:
        name: the experiment's name, a slug; created where it is missing.
        uri: MLflow's tracking address, by default `default_tracking_uri()`. A SQLite file is created where it is
            missing, with artifacts in the folder `artifacts` beside it; a server decides where artifacts go.

    Attributes:
        moved: what was corrected because the store was moved or copied, in one line; empty if nothing was.

    Raises:
        TrackingError: the store cannot be used. Every method raises it where the store refuses or does not answer.
    """

    def __init__(self, name: str, uri: str | None = None) -> None:
        assert _SLUG.fullmatch(name), f"an experiment's name is a slug, found {name!r}"
        self.name = name
        self.uri = uri or default_tracking_uri()
        self.client = connect(self.uri, create=True)
        self.moved = wrap_errors()(correct_addresses)(self.client)
        self.id = self._open()

    @wrap_errors()
    def _open(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            tags = {schema.EXPERIMENT_KIND: schema.MODEL_TRAINING}
            try:
                beside = artifacts_beside(self.uri)
                location = beside.as_uri() if beside is not None else None
                return str(self.client.create_experiment(self.name, location, tags=tags))
            except MlflowException:  # another process created it meanwhile, or the store refuses
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        refuse_deleted(found, self.uri)
        refuse_missing(found, self.uri)
        return str(found.experiment_id)

    @wrap_errors()
    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or everything inside a folder, in the run's artifact folder `folder` (None: the top)."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    @wrap_errors()
    def log_contents(self, run_id: str, files: Mapping[str, str | bytes]) -> None:
        """Store contents under their artifact paths, text in UTF-8 (MLflow's `log_text` uses the locale's encoding)."""
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
            self.client.log_artifacts(run_id, folder)

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


def clipped_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags, cut to the length that MLflow stores."""
    return {name: schema.clipped(value, schema.TAG_LIMIT) for name, value in tags.items()}
