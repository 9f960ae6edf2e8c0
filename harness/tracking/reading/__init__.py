"""Reads sweeps and runs back from MLflow as pandas frames."""
