"""Mixed-integer programs: encodings of operators, of a network, of a query."""
