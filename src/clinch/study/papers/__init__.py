"""Published tables and figures, one file each: ``adr_random.py`` is what ``clinch reproduce adr-random`` runs.

To add one is to add a file with a function ``run(*, seed, quick, note) -> Reproduction``
(:mod:`clinch.study.reproduction`). Files whose names begin with an underscore are parts that papers share.
"""
