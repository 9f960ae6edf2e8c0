"""The sentences of a report: answer, plan, provenance, numbers as text."""
