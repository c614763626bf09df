"""Best-first search: one loop and one store of nodes, and what is bounded, split and solved in them."""
