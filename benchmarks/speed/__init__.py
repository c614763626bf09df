"""The same work from two checkouts, in turns."""
