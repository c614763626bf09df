"""``python -m clinch`` is the ``clinch`` command."""

from clinch.cli import main

main()
