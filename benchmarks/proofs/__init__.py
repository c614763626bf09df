"""What certificates cost, and what files from strangers can do."""
