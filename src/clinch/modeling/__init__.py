"""The problem language: symbols of a network's layers, expressions, constraints, problems, and their normal form."""
