"""Generative models: the latent input of a decoder that comes nearest to an image, damaged or not.

* :func:`reconstruct`, :func:`denoise`, :func:`inpaint`: all images and starts at once, by a method of
  :data:`~clinch.applications.latent.descents.DESCENTS`.
* :func:`closest`: the same as a problem, for ``solve()`` and its proof.
"""

from clinch.applications.latent.descents import DESCENTS
from clinch.applications.latent.figure_restored import restored_figure
from clinch.applications.latent.misfit import Misfit
from clinch.applications.latent.restore import Restored, closest, denoise, inpaint, reconstruct

__all__ = ["DESCENTS", "Misfit", "Restored", "closest", "denoise", "inpaint", "reconstruct", "restored_figure"]
