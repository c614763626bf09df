"""VNN-LIB: properties of networks in files, versions 1.0 and 2.0, and the verdict on them.

``(assert (<= X_0 0.5))`` limits an input, ``(assert (>= Y_1 Y_0))`` compares outputs; all assertions together describe
a *counterexample*, and the question is whether there is one: ``sat`` or ``unsat`` (https://www.vnnlib.org).

:mod:`~clinch.vnnlib.syntax` splits the text, :mod:`~clinch.vnnlib.reader` gives it a meaning,
:mod:`~clinch.vnnlib.cases` brings the formula into boxes and clauses, :mod:`~clinch.vnnlib.problems` states those as
queries, and :mod:`~clinch.vnnlib.verification` decides them: :func:`clinch.verify`.
"""

from clinch.vnnlib.reader import parse_specification, read_specification
from clinch.vnnlib.specification import Atom, Declaration, Junction, Specification

__all__ = ["Atom", "Declaration", "Junction", "Specification", "parse_specification", "read_specification"]
