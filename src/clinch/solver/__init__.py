"""What every engine reports to and every solve returns: the ledger, checks of points, solutions, checkpoints."""
