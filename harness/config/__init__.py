"""The spec of a sweep, the configuration of one run, and every mistake in them with its line."""
