"""Interpreters: the meaning of each IR, in plain Python."""
