"""Records runs on disk first and sends them to MLflow in the background."""
