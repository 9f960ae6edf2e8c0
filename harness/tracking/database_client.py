"""MLflow's client of a PostgreSQL database: its calls wait while the server cannot be used.

Importing this module imports MLflow.
"""

from __future__ import annotations

from typing import Final

from mlflow import MlflowClient

from harness.core.database_servers import make_calls_wait

# Calls that have the same effect if they are repeated. MLflow stores a metric's point once, also if it is sent twice.
# `create_run` and `create_logged_model` are not among them: their callers look whether the first call had its effect.
_CALLS: Final = (
    *("get_run", "search_runs", "get_metric_history", "set_terminated", "update_run", "log_batch", "delete_tag"),
    *("log_inputs", "log_outputs", "log_artifact", "list_artifacts", "download_artifacts"),
    *("get_experiment", "get_experiment_by_name", "search_experiments", "create_experiment", "set_experiment_tag"),
    *("finalize_logged_model", "log_model_artifact", "list_logged_model_artifacts", "search_logged_models"),
)


class DatabaseClient(MlflowClient):
    """An `MlflowClient` whose calls wait in the main thread, see `harness.core.database_servers`."""


make_calls_wait(DatabaseClient, _CALLS, "tracking_uri")
