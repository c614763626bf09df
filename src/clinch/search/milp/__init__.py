"""Mixed-integer programs: points from solver libraries, bounds from a tree of linear programs."""
