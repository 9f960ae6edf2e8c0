"""Writes sweeps and runs to MLflow."""
