"""The default attack for the smallest distance, and its parts."""
