"""Checkpoint files that others published, one module a method: how each is recognised and mapped."""
