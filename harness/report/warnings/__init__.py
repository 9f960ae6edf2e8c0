"""What may change a report's conclusion: each warning is detected and worded here."""
