"""Checkers: the second opinion on points and proofs. Nothing here imports an attack, a bound or an exact search."""
