"""One sweep from its spec to its report: what trains next, on which worker, and what became of it."""
