"""The service around `bandit`: gRPC, Postgres, processes and the command line."""
