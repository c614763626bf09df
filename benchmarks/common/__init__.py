"""What benchmarks share: the clock, a second look at points, and the one format of results."""
