"""Benchmarks: each is one command, whose last line is JSON."""
