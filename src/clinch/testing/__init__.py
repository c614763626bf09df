"""For tests of Clinch and of what is built on it: small random networks, and exact optima by enumeration."""

from clinch.testing.brute_force import brute_force as brute_force
