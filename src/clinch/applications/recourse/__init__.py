"""Recourse: the cheapest change of a row of a table that gets the wanted answer of a model, proven.

Wachter, Mittelstadt & Russell 2018 (arXiv 1711.00399) and Ustun, Spangher & Liu 2019 (arXiv 1809.06514) ask for it;
their methods and their successors' prove nothing for networks. Here the schema's conditions hold exactly, and the cost
comes with a bound.
"""

from clinch.applications.recourse.cheapest import Answer, Recourse, cheapest
from clinch.applications.recourse.schema import Feature, Schema, read_schema

__all__ = ["Answer", "Feature", "Recourse", "Schema", "cheapest", "read_schema"]
