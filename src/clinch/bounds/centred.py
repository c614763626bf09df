"""Rows in float32 with a proven allowance: a network seen from one point of each region.

Let c be what a network computes at one point of a region, d = x − c how far an activation is from it, and r a limit of
``|d|``. An affine layer is linear in d, and a line ``y >= s·z + t`` says ``d_y >= s·d_z + (s·c_z + t − c_y)``: no bias
is left, the constants are zero wherever a kink is decided, and every number is about as large as the region's *width*
makes it, not as the activations are.

Rows A that were carried back in float32 are taken as they are, as exact numbers. One step of a layer ``d_y = W d_x``
gives Â instead of A W, and

    |<Â − A W, d_x>|  <=  γ_n <|A| |W|, r_x>  =  γ_n <|A|, |W| r_x>,        γ_n = n·u / (1 − n·u),  u = 2⁻²⁴,

where n counts the products of one sum, its conversions included (Higham 2002, Accuracy and Stability of Numerical
Algorithms, section 3.1, for any order of summation). ``|W| r_x`` is one vector per layer, so that the allowance costs
one inner product per row. Lines multiply each coefficient by a slope: γ_5 <|A|, σ ⊙ r_z>, with σ the sizes of both
slopes; their constants t are summed over the channels in float32 and over places in float64: γ_{C+6} <|A|, |t|>. A sum
of two branches costs u <|Â|, r>, and what is rounded once γ_2 <|Â|, r>. What underflows is less than 2⁻¹²⁵ per product,
and gets a term of its own. Float64 itself counts as exact here, as it does elsewhere in these bounds.

On long ways through wide layers the allowance comes to a thousandth of a limit, some hundred times what is lost: little
enough to decide a sign, too much to relax with. What float32 leaves open is bounded in float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval
from clinch.network.ops.views import Kernel

#: unit roundoff of float32, and the most that a product or a coefficient loses where it underflows
UNIT, UNDERFLOW = 2.0**-24, 2.0**-125
#: allowances are summed in float32 too: what that may lose of them, for layers of at most so many elements
INFLATED, LARGEST = 1.15, 2**20


def gamma(count: float) -> float:
    """``γ_n = n·u / (1 − n·u)``."""
    return count * UNIT / (1 - count * UNIT)


def terms(kernel: Kernel) -> int:
    """Products in one sum of a kernel's transpose: output channels of a group, times the places that see one place."""
    return kernel.weight.shape[0] // kernel.groups * kernel.reach.readers


def terms_of_transpose(kernel: Kernel) -> int:
    """Products in one sum of a kernel itself, as the transpose of a transposed convolution."""
    return kernel.weight[0].numel()


class Centred:
    """What rows need to know of a network around one point of each region, layer by layer.

    Args:
        graph: the network.
        region: B regions.
        limits: of nodes, read when they are asked for; None: in float64 alone.
    """

    def __init__(self, graph: Graph, region: Region, limits: Mapping[int, Interval] | None = None) -> None:
        self.graph, self.region, self.limits = graph, region, limits
        self._values = {0: region.lower / 2 + region.upper / 2}
        self._spreads: dict[int, Tensor] = {}

    def value(self, i: int) -> Tensor:
        """``(B, *node_shape)`` at the boxes' middles."""
        if i not in self._values:
            for k in self.graph.ancestors([i]):
                if k not in self._values:
                    node = self.graph.nodes[k]
                    self._values[k] = node.op.forward(*(self._values[j] for j in node.inputs))
        return self._values[i]

    def known(self, i: int, problems: slice) -> Interval:
        """Limits of a node for some problems."""
        assert self.limits is not None
        return self.limits[i].take(problems)

    def radius(self, i: int) -> Tensor:
        """``(B, *node_shape)`` the most by which an activation is away from :meth:`value`."""
        assert self.limits is not None
        value, (lower, upper) = self.value(i), self.limits[i]
        return torch.maximum(upper - value, value - lower).clamp(min=0)

    def spread(self, i: int) -> Tensor:
        """``|W| r`` of an affine node, ``(B, *node_shape)``."""
        if i not in self._spreads:
            radii = [self.radius(j) for j in self.graph.nodes[i].inputs]
            around = self.graph.interval(i, [Interval(-r, r) for r in radii])
            self._spreads[i] = (around.upper - around.lower) / 2
        return self._spreads[i]

    @property
    def single(self) -> bool:
        """Whether float32 may be used: limits are known, and nothing here computes it in fewer digits."""
        value = self._values[0]
        onednn = torch.backends.mkldnn
        places = (torch.backends, onednn, *(getattr(onednn, name, None) for name in ("conv", "matmul")))
        precision = {getattr(where, "fp32_precision", "none") for where in places}
        plain = torch.get_float32_matmul_precision() == "highest" and precision <= {"none", "ieee"}
        return self.limits is not None and value.device.type == "cpu" and value.dtype == torch.float64 and plain


def weigh(rows: Tensor, sizes: Tensor) -> Tensor:
    """``<|rows|, sizes>`` for rows ``(G, R, *shape)`` and sizes ``(G, *shape)``, as float64 ``(G, R)``; too small by a
    share that :data:`INFLATED` makes good."""
    flat, vector = rows.abs().flatten(2), sizes.flatten(1)
    if vector.shape[0] == 1:
        return (flat @ vector[0]).to(torch.float64)
    return torch.bmm(vector.unsqueeze(1), flat.transpose(1, 2)).squeeze(1).to(torch.float64)
