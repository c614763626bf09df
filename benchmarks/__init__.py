"""Measurements of Clinch, sorted by the question they answer; ``python -m benchmarks`` lists them."""
