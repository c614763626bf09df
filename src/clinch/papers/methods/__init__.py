"""Attacks that only one paper needs; each is reachable as ``clinch.attacks.NAME``."""
