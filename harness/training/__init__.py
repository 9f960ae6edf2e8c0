"""One training run: trainer, optimizer step, evaluation, resume."""
