"""One experiment of MLflow's, open to be written: what sweeps and their runs have in common there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core.paths import sqlite_file
from harness.tracking import schema
from harness.tracking.store import TrackingError, connect, default_tracking_uri, explained

if TYPE_CHECKING:
    from mlflow.entities import Metric

_SLUG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Experiment:
    """Passes run ids along and has no active run, which MLflow keeps per thread.

    Args:
        experiment: the experiment's name, a slug; created where it is missing.
        uri: MLflow's tracking address, by default `default_tracking_uri()`. A SQLite file is created where it is
            missing, with artifacts in the folder `artifacts` beside it; a server decides itself where they go.

    Raises:
        TrackingError: the store cannot be used. Every method raises it where the store refuses or does not answer.
    """

    def __init__(self, experiment: str, uri: str | None = None) -> None:
        assert _SLUG.fullmatch(experiment), f"an experiment's name is a slug, found {experiment!r}"
        self.experiment = experiment
        self.uri = uri or default_tracking_uri()
        self._client = connect(self.uri, create=True)
        self._experiment_id = self._open_experiment()

    @explained()
    def _open_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(
                    self._client.create_experiment(
                        self.experiment, self._artifact_location(), tags={schema.EXPERIMENT_KIND: schema.MODEL_TRAINING}
                    )
                )
            except MlflowException:  # another sweep was quicker, or the store refuses
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"found the experiment {self.experiment!r} deleted; give the sweep another name or restore it: "
                f"python -m mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        file = sqlite_file(self.uri)
        return (file.parent / "artifacts").as_uri() if file else None

    @explained()
    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or everything inside a folder, in the run's artifact folder `folder` (None: the top)."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), folder)
        else:
            self._client.log_artifact(run_id, str(path), folder)

    @explained()
    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store `text` as the artifact `path`, such as "notes/a.md", in UTF-8."""
        self._put(run_id, {path: text})

    def tag(self, run_id: str, tags: Mapping[str, str] | None = None, **named: str) -> None:
        """Set tags by their names after `harness.`: `tag(run, device="cpu")`. MLflow's own names stay as they are."""
        given = {**(tags or {}), **named}
        own = (schema.PREFIX, "mlflow.")
        full = {key if key.startswith(own) else schema.PREFIX + key: str(text) for key, text in given.items()}
        self._send(run_id, full)

    @explained()
    def _send(self, run_id: str, tags: Mapping[str, str], metrics: Sequence[Metric] = ()) -> None:
        from mlflow.entities import RunTag

        run_tags = [RunTag(name, value) for name, value in clipped_tags(tags).items()]
        self._client.log_batch(run_id, metrics=metrics, tags=run_tags)  # MLflow cuts what is too much for one request

    def _put(self, run_id: str, files: Mapping[str, str | bytes]) -> None:
        """Store contents under their artifact paths. (MLflow's own `log_text` writes in the locale's encoding.)"""
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
            self._client.log_artifacts(run_id, folder)


def clipped_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags, cut to the length that MLflow stores."""
    return {name: schema.clipped(value, schema.TAG_LIMIT) for name, value in tags.items()}
