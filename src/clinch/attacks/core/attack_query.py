"""What is asked of each input of a batch, in the normal form that attacks read.

A query has K *candidates*, numbers that depend on the input: it is met where the smallest of them, the *margin*, is
negative. Labels are a query of a single clause, with candidates ``f_y − f_c`` for every other class c, for a target
class ``max_{c≠t} f_c − f_t`` (:mod:`clinch.attacks.core.classification`); the candidates of a problem are the atoms of
its largest clause, each with the other clauses (:mod:`clinch.attacks.core.problem_query`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.averages import SuccessRate
from clinch.attacks.core.units import Units
from clinch.geometry.region import Region
from clinch.query import Distance


class Answer(NamedTuple):
    """What the network says about L points; gradients flow.

    Attributes:
        candidates: ``(L, K)``; infinity for a candidate that an input does not have.
        logits: ``(L, C)`` outputs of a classifier; None for a problem.
        atoms: ``(L, K)`` the candidates without the conditions that all of them share; None where they share none.
        others: ``(L, M)`` those conditions, each negative where it holds; None where there are none.
        value: ``(L,)`` the objective of a problem that lowers one; None where distances are what is lowered.
    """

    candidates: Tensor
    logits: Tensor | None
    atoms: Tensor | None = None
    others: Tensor | None = None
    value: Tensor | None = None

    @property
    def own(self) -> Tensor:
        """``(L, K)`` the candidates without what they share."""
        return self.candidates if self.atoms is None else self.atoms

    @property
    def margin(self) -> Tensor:
        """``(L,)`` the smallest candidate: negative where the objective is reached."""
        return self.candidates.amin(1)

    def conditions(self, candidate: Tensor | None = None, together: bool = True) -> Tensor:
        """What must all become negative, one after the other.

        Args:
            candidate: ``(L,)`` what each point is to take, :data:`ANY` for the smallest; None: the smallest.
            together: whether the conditions that candidates share count as one, the largest of them.

        Returns:
            ``(L, 1)`` the candidate alone where there are no others, ``(L, 2)`` or ``(L, 1 + M)``.
        """
        own = self.own.amin(1, keepdim=True)
        if candidate is not None:
            chosen = self.own.gather(1, candidate.clamp(min=0).unsqueeze(1))
            own = torch.where((candidate == ANY).unsqueeze(1), own, chosen)
        if self.others is None:
            return own
        return torch.cat([own, self.others.amax(1, keepdim=True) if together else self.others], 1)


#: a candidate of ANY stands for whichever is the smallest
ANY = -1

#: what gradient steps lower, for points ``which`` among those that were asked about: ``loss(answer, indices, which)``
Loss = Callable[[Answer, Tensor, Tensor], Tensor]


class LossOfScores(NamedTuple):
    """A loss of class scores, with its gradient in closed form: a :data:`Loss` that needs no autograd.

    Attributes:
        value: the loss.
        slope: what it is and its gradient ``(L, C)`` with respect to the scores, for the same arguments.
        of_candidates: whether that is ``(L, K)`` with respect to the candidates, of sum one.
    """

    value: Loss
    slope: Callable[[Answer, Tensor, Tensor], tuple[Tensor, Tensor]]
    of_candidates: bool = False

    def __call__(self, answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
        """The loss."""
        return self.value(answer, indices, which)


class PlainSlope(NamedTuple):
    """A loss ``(L,)``, the margin ``(L,)`` and the loss's gradient ``(L, *input_shape)`` at inputs of the model."""

    loss: Tensor
    margin: Tensor
    gradient: Tensor


#: several of them, for some of the points that were asked about: ``losses(answer, which) -> (len(which), M)``
Losses = Callable[[Answer, Tensor], Tensor]


class AttackQuery(ABC):
    """What is asked, in the normal form that attacks read: B problems in the user's units.

    Attributes:
        objective: the distance that is lowered, from the clean inputs ``(B, *input_shape)``.
        region: where points must stay; ``limits`` the same box, of one input where all have the same.
        dtype: the model's.
        width: number of candidates K, the atoms of the largest clause.
        clauses: number of clauses.
        surrogates: whether the network can be looked into, so that a gradient that is zero for want of an active
            neuron has a surrogate.
        spent: rows sent forward for each problem while it was stated.
        lowers: whether another objective than the distance is lowered.
        graded: whether a point short of the goal is worth something too, so that no attack gives up on an input.
        exact: whether verdicts are those of float64 too.
        steps: whether the network has step functions, through which no gradient passes.
        revives: whether a gradient of classifiers that is zero has a surrogate too.
        cost: rows of the network that an answer about one point takes.
        grid: spacings of the values that elements take, see :class:`~clinch.attacks.core.units.Units`.
        losses: what gradient steps can lower besides the margin, by name; ``default_loss`` the one they take unless
            told otherwise.
    """

    objective: Distance
    region: Region
    limits: Region
    dtype: torch.dtype
    width: int = 1
    clauses: int = 1
    surrogates: bool = False
    spent: int = 0
    lowers: bool = False
    graded: bool = False
    exact: bool = True
    steps: bool = False
    revives: bool = False
    cost: int = 1
    grid: Tensor | None = None
    losses: Mapping[str, Loss] = MappingProxyType({})
    default_loss: str = "margin"

    @abstractmethod
    def answer(self, x: Tensor, indices: Tensor) -> Answer:
        """What the network says about inputs ``(L, *input_shape)`` of the given problems ``(L,)``."""

    def surrogate_answer(self, x: Tensor, indices: Tensor) -> Answer | None:
        """The same answer, with gradients that pass inactive neurons and step functions, or are rounded less: where the
        true gradient is zero it shows a way. None where there is none."""
        return None

    def plain_slope(self, x: Tensor, indices: Tensor, loss: Loss | None, which: Tensor) -> PlainSlope | None:
        """A loss (None: the margin) and its gradient without autograd; None where that is what it takes."""
        return None

    @abstractmethod
    def check(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Whether inputs meet everything ``(L,)``, and their margin ``(L,)`` in float64: the worse of the original
        model's in its own dtype and of float64, so that a point that counts holds in both."""

    def value(self, x: Tensor, indices: Tensor) -> Tensor | None:
        """The objective ``(L,)`` in float64 where another one than the distance is lowered."""
        return None

    def rate(self, x: Tensor, indices: Tensor) -> SuccessRate | None:
        """How often the points of a stochastic model meet everything; None for others."""
        return None

    def fingerprint(self, inputs: Tensor) -> Tensor:
        """``(B,)`` hashes of what is wanted, given those of the inputs."""
        return inputs

    def within_reach(self, units: Units) -> None:  # noqa: B027 (most have nothing to do)
        """Give elements without limits some, where distances count elements and each may move as far as it likes."""
