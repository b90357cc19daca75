"""Attention mechanisms, one module each."""
