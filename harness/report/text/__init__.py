"""The text of a report: answer, plan, provenance, number formats."""
