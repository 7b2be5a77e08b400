"""Benchmarks: what the router does in a second, beside what a bare gRPC server does on the same machine in the same run."""
