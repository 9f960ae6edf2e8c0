"""A research harness for questions about training a GPT: one YAML file in, one answer out."""

__version__ = "0.1.0"
