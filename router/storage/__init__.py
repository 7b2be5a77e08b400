"""The only rooms that see SQL. Everything else handles values from `router.experiment` and `bandit`."""
