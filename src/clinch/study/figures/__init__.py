"""Figures of a study, one file each: curves of robust accuracy, classes, margins, a gallery of inputs."""

from clinch.runtime import renamed
from clinch.study.figures.certified import certified_figure
from clinch.study.figures.classes import classes_figure
from clinch.study.figures.compared import compared_figure, distribution_figure
from clinch.study.figures.gallery import gallery_figure
from clinch.study.figures.margins import margins_figure

__all__ = [
    "certified_figure",
    "classes_figure",
    "compared_figure",
    "distribution_figure",
    "gallery_figure",
    "margins_figure",
]

__getattr__ = renamed.attributes(__name__)
