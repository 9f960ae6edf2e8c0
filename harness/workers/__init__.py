"""Where runs train: a pool of processes that stream points to the parent."""
