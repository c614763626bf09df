"""What the exact search closes, and in what time."""
