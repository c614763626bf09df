"""Generative models: the latent input of a decoder that comes nearest to an image, damaged or not.

* :func:`reconstruct`, :func:`denoise`, :func:`inpaint`: all images and starts at once, by a method of
  :data:`~clinch.domains.latent.descents.DESCENTS`.
* :func:`closest`: the same as a problem, for ``solve()`` and its proof.
"""

from clinch.domains.latent.descents import DESCENTS
from clinch.domains.latent.misfit import Misfit
from clinch.domains.latent.restore import Restored, closest, denoise, inpaint, reconstruct

__all__ = ["DESCENTS", "Misfit", "Restored", "closest", "denoise", "inpaint", "reconstruct"]
