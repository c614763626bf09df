"""Norms, balls and boxes: what attacks and bounds both need to know about the shape of the search region."""
