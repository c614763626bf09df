"""Hypothesis: the same examples on every run, so that a red suite means a changed project.

``HYPOTHESIS_PROFILE=explore make test`` draws new ones each time; whatever it finds belongs into the tests.
"""

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
