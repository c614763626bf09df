"""The old name of :mod:`clinch.applications`; it goes with the next release."""

from clinch import renamed

renamed.modules(__name__)
