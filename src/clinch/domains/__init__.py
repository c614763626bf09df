"""The old name of :mod:`clinch.applications`; it goes with the next release."""

from clinch.runtime import renamed

renamed.modules(__name__)
