"""Where runs train: one protocol, and a pool of local processes that implements it."""
