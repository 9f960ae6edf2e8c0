"""Optuna: one study per arm, samplers and pruners by name."""
