"""Labels as a query: one clause, "some other class is at least as large", or for a target "no class is larger".

Everything about the arguments is checked here, before any gradient is spent. The network need not be read into a graph:
a module is used as it is.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clinch.attacks.core.attack_query import Answer, AttackQuery, Loss, LossOfScores, PlainSlope
from clinch.attacks.core.averages import VERDICTS, Averaged, SuccessRate, differs
from clinch.attacks.core.batches import filled, heightened, missing_rows, parts_of
from clinch.attacks.core.draws import mix
from clinch.attacks.core.limits import NO_LIMITS, InputLimits, box_of, counting, grid_of, inside
from clinch.attacks.core.step_functions import StepFunctions
from clinch.attacks.core.units import working_dtype
from clinch.errors import NetworkError, ProblemError
from clinch.geometry.norms import norm_of
from clinch.geometry.region import Region
from clinch.network.gradients import Gradients, plain_graph
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.original import training_module
from clinch.query import Distance, met
from clinch.runtime.arguments import as_tensor, checked_batch, checked_labels, checked_outputs
from clinch.runtime.gradients import with_gradients

OUTPUTS = ("logits", "probabilities")
#: clean inputs that a network is asked about twice
REPEATED = 4


class ClassQuery(AttackQuery):
    """Untargeted: ``f_c >= f_y`` for some class c ≠ y. Targeted: ``f_t >= f_c`` for every class c ≠ t.

    Candidates are the classes, the label's own being infinite; for a target there is one, ``max_{c≠t} f_c − f_t``.

    Args:
        net: a classifier, ``nn.Module`` in evaluation mode or what ``cl.load`` returned; outputs ``(N, C)``.
        x: ``(B, *input_shape)`` clean inputs.
        y: ``(B,)`` labels.
        target: ``(B,)`` or one wanted class; None: any class but the label.
        bounds: the declared range of inputs, see :func:`~clinch.attacks.core.limits.box_of`; None: no limits.
        p: the norm of distances.
        outputs: what f is: the ``"logits"``, or their ``"probabilities"`` (softmax).
        any_p: whether the attack takes every p >= 1, but not 0.
        limits: of inputs, besides their range.

    Raises:
        NetworkError: training mode, or outputs that are not one row of class scores for each input.
        ShapeError, NonFiniteError, ProblemError: an argument that does not fit; the message says which.
    """

    default_loss = "cross-entropy"

    @with_gradients
    def __init__(
        self, net: nn.Module | Network, x: Tensor, y: Tensor, *, target: Tensor | int | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0), p: float = torch.inf, outputs: str = "logits",
        any_p: bool = False, limits: InputLimits = NO_LIMITS,
    ) -> None:  # fmt: skip
        if outputs not in OUTPUTS:
            raise ProblemError(f"outputs={outputs!r} is not known. Write 'logits' or 'probabilities'.")
        check_p(p, any_p)
        self.model = Model(net, scores=True)
        inputs = checked_inputs(self.model, x, bounds)
        self.limits = box_of(inputs, bounds, limits)
        p = counting(norm_of(p).p, limits, inputs)
        self.outputs, self.dtype, self.objective = outputs, inputs.dtype, Distance(inputs, p)
        self.region = Region(self.limits.lower.expand(inputs.shape), self.limits.upper.expand(inputs.shape))
        self.grid = grid_of(inputs, limits)
        with torch.no_grad(), StepFunctions() as watch:
            parts = [checked_outputs(self.model, inputs[part]) for part in parts_of(inputs)]
        scores = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.classes, self.steps = _checked_scores(scores, len(inputs)), watch.seen
        self._check_repeats(inputs, scores)
        self.y = checked_labels("y", y, len(inputs), self.classes).to(inputs.device)
        self.target = None
        if target is not None:
            wanted = as_tensor(target, "target", "one class, or a tensor (B,) of whole numbers")
            wanted = wanted.expand(len(inputs)) if wanted.dim() == 0 else wanted
            self.target = checked_labels("target", wanted, len(inputs), self.classes).to(inputs.device)
        self.width = self.classes if self.target is None else 1

    def _check_repeats(self, inputs: Tensor, scores: Tensor) -> None:
        few = inputs[:REPEATED]
        if self.model.average is not None or not differs(scores[: len(few)], self.model(few).detach()):
            return
        with torch.no_grad():
            if differs(self.model(few), self.model(few)):
                raise NetworkError(
                    "The network answers the same inputs differently each time. Write eot=20, or another number of "
                    "runs whose mean is attacked; success is then a rate. Or switch its noise off."
                )

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether the module can be run in float64, see :class:`Model`."""
        return self.model.has_exact

    @property
    def revives(self) -> bool:  # type: ignore[override]
        """See :meth:`AttackQuery.surrogate_answer`."""
        return self.steps or (self.model.has_exact and self.dtype != torch.float64)

    @property
    def cost(self) -> int:  # type: ignore[override]
        """See :class:`AttackQuery`."""
        return 1 if self.model.average is None else self.model.average.runs

    def fingerprint(self, inputs: Tensor) -> Tensor:
        """See :meth:`AttackQuery.fingerprint`."""
        return mix(inputs + (self.y if self.target is None else self.y + self.classes * (1 + self.target)))

    def answer(self, x: Tensor, indices: Tensor) -> Answer:
        """See :meth:`AttackQuery.answer`."""
        return self.answer_from(self.model(x).to(working_dtype(self.dtype)), indices)

    def plain_slope(self, x: Tensor, indices: Tensor, loss: Loss | None, which: Tensor) -> PlainSlope | None:
        """See :meth:`AttackQuery.plain_slope`."""
        plain = None if self.steps else self.model.gradients(x)
        if plain is None:
            return None
        count, missing = len(x), missing_rows(x)
        values = plain.values(heightened(x.detach(), missing))
        scores = next(reversed(values.values()))[:count]
        if self.outputs == "logits" and (loss is None or isinstance(loss, LossOfScores)):
            value, margin, gradient = self._slope_of(scores, indices, loss, which)
        else:
            with torch.enable_grad():
                leaf = scores.requires_grad_()
                answer = self.answer_from(leaf, indices)
                found = answer.margin if loss is None else loss(answer, indices, which)
                (gradient,) = torch.autograd.grad(found.sum(), leaf)
            value, margin = found.detach(), answer.margin.detach()
        if missing:
            gradient = torch.nn.functional.pad(gradient, (0, 0, 0, missing))
        return PlainSlope(value, margin, plain.back(values, gradient)[:count])

    def _slope_of(
        self, f: Tensor, indices: Tensor, loss: LossOfScores | None, which: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A loss of scores (None: the margin), the margin, and the loss's gradient ``(L, C)``: classes that tie have
        equal shares of the margin's."""
        sign, own = (1.0, self.y) if self.target is None else (-1.0, self.target)
        wanted = own[indices].unsqueeze(1)
        others, mine = torch.scatter(f, 1, wanted, -torch.inf), f.gather(1, wanted)
        top = others.amax(1, keepdim=True)
        margin = (sign * (mine - top)).squeeze(1)
        if loss is not None and not loss.of_candidates:
            value, gradient = loss.slope(Answer(f, f), indices, which)
            return value, margin, gradient
        value = margin
        if loss is not None and self.target is None:
            value, share = loss.slope(Answer(mine - others, f), indices, which)
        else:  # the margin is the only candidate of a target
            share = (others == top).to(f)
            share /= share.sum(1, keepdim=True)
        return value, margin, share.mul_(-sign).scatter_(1, wanted, sign)

    def surrogate_answer(self, x: Tensor, indices: Tensor) -> Answer | None:
        """See :meth:`AttackQuery.surrogate_answer`: with gradients that pass step functions where there are any, else
        those of float64, in which less is rounded to zero."""
        if not self.revives:
            return None
        if self.steps:
            with StepFunctions():
                found = self.model(x)
        else:
            found = self.model.finer(x)
        return None if found is None else self.answer_from(found, indices)

    def answer_from(self, logits: Tensor, indices: Tensor) -> Answer:
        """The answer of a network that returns these logits ``(L, C)`` for the given inputs."""
        f = logits.softmax(1) if self.outputs == "probabilities" else logits
        wanted = (self.y if self.target is None else self.target)[indices].unsqueeze(1)
        own = f.gather(1, wanted)
        others = torch.scatter(f, 1, wanted, -torch.inf)
        if self.target is None:
            return Answer(own - others, logits)
        return Answer((others.amax(1, keepdim=True) - own), logits)

    def check(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AttackQuery.check`; a tie counts (:func:`clinch.query.met`), what is not finite does not."""
        margin = torch.cat([self._worse(x[part], indices[part]) for part in parts_of(x)])
        margin = torch.where(margin.isnan() | ~x.flatten(1).isfinite().all(1), torch.inf, margin)
        rate = self.rate(x, indices)
        if rate is not None:  # a majority of fresh runs, by what is certain of it
            margin = torch.where(margin.isfinite(), 0.5 - rate.lower, margin)
            return margin < 0, margin
        return met(margin), margin

    def rate(self, x: Tensor, indices: Tensor) -> SuccessRate | None:
        """See :meth:`AttackQuery.rate`."""
        if self.model.average is None:
            return None
        hits = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with torch.no_grad():
            for _ in range(VERDICTS):
                hits += met(self.answer_from(self.model.average.once(x).double(), indices).margin)
        return SuccessRate.of(hits, VERDICTS)

    def _worse(self, x: Tensor, indices: Tensor) -> Tensor:
        """The larger margin of the two dtypes, in float64."""
        with torch.no_grad():
            scores = self.model(x), self.model.exact(x)
        margins = [self.answer_from(f.double(), indices).margin for f in scores if f is not None]
        return torch.stack(margins).amax(0)


class Model:
    """A network in its own dtype, and in float64. A module is used as it is, without being read into a graph.

    Args:
        net: the network.
        scores: of one that ends in a softmax, what goes into that: it has the same largest element, and gradients that
            do not vanish.
    """

    def __init__(self, net: nn.Module | Network, *, scores: bool = False) -> None:
        if not isinstance(net, nn.Module | Network):
            raise NetworkError(
                f"A {type(net).__name__} cannot be attacked. Pass an nn.Module, what cl.load returned, or a cl.Problem."
            )
        self.net, self.scores = net, scores
        self._read, self._gradients = False, None
        #: what averages a stochastic model's runs
        self.average = net if isinstance(net, Averaged) else None
        #: whether float64 has its say. A module that casts inside is run with its casts to other real dtypes left out;
        #: one that fails even so is judged in its own dtype alone.
        self.has_exact = not isinstance(net, Averaged)
        if isinstance(net, Network):
            self.dtype, self.device = net.dtype, net.device
            return
        training = training_module(net)
        if training is not None:
            raise NetworkError(f"The model{f' (its part {training!r})' * bool(training)} is in training mode. "
                               "Call model.eval() first.")  # fmt: skip
        first = next((t for t in net.parameters() if t.is_floating_point()), torch.zeros(0))
        self.dtype, self.device = first.dtype, first.device

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs, for a classifier scores ``(N, C)``, in the model's dtype; gradients flow to x."""
        if isinstance(self.net, Network):
            graph = self.net.graph
            return filled(lambda z: self._outputs(graph, z), x)
        return filled(self.net, x)

    def _outputs(self, graph: Graph, x: Tensor) -> Tensor:
        node = graph.deciding(graph.output) if self.scores else graph.output
        return graph.forward(x, [node])[node]

    def gradients(self, x: Tensor) -> Gradients | None:
        """Outputs at points like x and their gradients without autograd; None for other than plain networks, or where
        points and outputs have other dtypes."""
        if not self._read:
            self._read, self._gradients = True, self._plain(x)
        return None if x.dtype != self.dtype or torch.is_autocast_enabled(x.device.type) else self._gradients

    def _plain(self, x: Tensor) -> Gradients | None:
        if working_dtype(self.dtype) != self.dtype or not len(x):
            return None
        if isinstance(self.net, Network):
            graph = None if self.net.is_live else self.net.graph
        else:
            graph = plain_graph(self.net, x)
        if graph is None:
            return None
        return Gradients.of(graph, graph.deciding(graph.output) if self.scores else graph.output)

    def exact(self, x: Tensor) -> Tensor | None:
        """Outputs in float64; None where the module cannot be run so, see :attr:`has_exact`."""
        if isinstance(self.net, Network):
            graph = self.net.graph_as(torch.float64, self.device)
            return filled(lambda z: self._outputs(graph, z), x.double())
        with torch.no_grad():
            return self._in_double(x.double())

    def finer(self, x: Tensor) -> Tensor | None:
        """Outputs in float64 with gradients; None where there are none."""
        if isinstance(self.net, Network):
            graph = self.net.graph_as(torch.float64, self.device)
            return filled(lambda z: self._outputs(graph, z), x.double())
        return self._in_double(x.double())

    def finest(self, x: Tensor) -> Tensor:
        """Outputs in float64; where the module cannot be run so, its own outputs as float64 numbers."""
        found = self.exact(x)
        return self(x).double() if found is None else found

    def _in_double(self, x: Tensor) -> Tensor | None:
        for mode in (nullcontext(), KeptDouble()) if self.has_exact else ():
            try:
                with mode:
                    found = filled(self._double, x)
            except (RuntimeError, TypeError, NotImplementedError):
                continue
            if not isinstance(found, Tensor) or found.dtype == torch.float64:
                return found
        self.has_exact = False
        return None

    @cached_property
    def _double(self) -> nn.Module:
        """A copy in float64, made once: an attack sees one set of weights."""
        assert isinstance(self.net, nn.Module)
        return copy.deepcopy(self.net).double()


class KeptDouble(TorchDispatchMode):
    """Casts of float64 to other real dtypes do nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        dtype = kwargs.get("dtype")
        narrows = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        if narrows and func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def check_p(p: float, any_p: bool) -> None:
    """Raise a ProblemError for a norm that an attack does not take."""
    if norm_of(p).counts and any_p:
        raise ProblemError(f"norm={p} has no dual norm, which this attack needs. Write a number from 1 on, or cl.inf.")


def checked_inputs(model: Model, x: Tensor, bounds: Any) -> Tensor:
    """A batch of inputs in the model's dtype, on its device.

    Raises:
        ShapeError, NonFiniteError, ProblemError: no batch of the network's inputs, NaN, or outside the range.
    """
    x = checked_batch(x, model.net.input_shape if isinstance(model.net, Network) else None)
    return inside(x, bounds, model.dtype).to(model.device, model.dtype).clone()


def _checked_scores(logits: Tensor, size: int) -> int:
    """Number of classes of a network that returns these for the clean inputs."""
    if logits.dim() != 2 or len(logits) != size or logits.shape[1] < 2:
        raise NetworkError(
            f"For {size} inputs the network returns shape {tuple(logits.shape)}; a classifier returns one row of "
            "scores for each. For other networks state a cl.Problem and pass that."
        )
    if not bool(logits.isfinite().all()):
        raise NetworkError("The network returns NaN or infinity for a clean input. Check its weights and the data.")
    return logits.shape[1]
