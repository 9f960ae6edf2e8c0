"""What is asked: the spec of a sweep, the configuration of one run, and every mistake with its line."""
