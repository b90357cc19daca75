"""Runtimes: one module per library that runs a network."""
