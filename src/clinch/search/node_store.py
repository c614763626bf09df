"""The open nodes of a search: columns of tensors that grow, slots used again, the nodes of smallest priority first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

#: bytes of waiting nodes beyond which those of largest priority go first, so that few wait
MEMORY = 2**31
#: bytes of columns that can be spared, beyond which nodes wait without them
SPARE_MEMORY = 2**30
#: bytes by which a store grows at once, at most: copying more would be felt
GROWTH = 2**28
#: nodes that are picked out at once for later pops, relative to one pop, and at least
AHEAD, LEAST_AHEAD = 8, 256


@dataclass(frozen=True)
class Nodes:
    """D nodes: every field is a tensor whose first dimension is D. Searches add columns of their own.

    Attributes:
        problem: ``(D,)`` the problem that each belongs to.
        bound: ``(D,)`` proven: nothing in the node has a smaller objective.
        place: ``(D,)`` its place in the recorded tree, −1 where nobody records.
    """

    problem: Tensor
    bound: Tensor
    place: Tensor

    #: columns that wait in single precision, and columns that are given up, and NaN then, where memory is short
    LIGHT: ClassVar[frozenset[str]] = frozenset()
    SPARE: ClassVar[frozenset[str]] = frozenset()

    def __len__(self) -> int:
        return len(self.problem)

    def take(self, index: Tensor | slice) -> Self:
        """The chosen nodes, in that order; an index may repeat. A mask chooses, too."""
        return type(self)(**{name: column[index] for name, column in self.columns()})

    def columns(self) -> Iterable[tuple[str, Tensor]]:
        """Names and tensors."""
        return [(name, getattr(self, name)) for name in _names(type(self))]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """All nodes of all parts, in that order."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in _names(cls)})


@cache
def _names(kind: type[Nodes]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


N = TypeVar("N", bound=Nodes)


class NodeStore(Generic[N]):
    """Open nodes of one kind. A pop costs little more than a copy of what is taken, however many wait.

    Args:
        in_turns: whether every problem's node of smallest priority comes before anyone's second; else problems do not
            matter, and of equal priorities the newest comes first.
        memory: bytes beyond which the nodes of largest priority come first.
    """

    def __init__(self, *, in_turns: bool = False, memory: float = MEMORY, device: torch.device | str = "cpu") -> None:
        self.in_turns, self.memory, self.device = in_turns, memory, device
        self.clear()

    def clear(self) -> None:
        """Forget all nodes."""
        self._columns: dict[str, Tensor] = {}
        self._count = self._pushed = self._row_bytes = 0
        self._front: Tensor | None = None
        self._limit = -torch.inf

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        """What the waiting nodes take."""
        return self._count * self._row_bytes

    @property
    def crowded(self) -> bool:
        """Whether so many wait that those of largest priority come first."""
        return self.bytes > self.memory

    # --- in and out ---------------------------------------------------------------------------------------------------

    def push(self, nodes: N, priority: Tensor | None = None) -> None:
        """Take nodes in; of equal priorities the first of them comes first.

        Args:
            priority: ``(D,)`` float64, the smallest comes first; None: their bounds.
        """
        count = len(nodes)
        if not count:
            return
        if not self._columns:
            self._lay_out(nodes)
        if self._frees < count:
            self._grow(count - self._frees)
        self._frees -= count
        at = self._free[self._frees : self._frees + count].clone()
        priority = nodes.bound if priority is None else priority
        self._write(at, nodes)
        self._priority[at], self._live[at] = priority, True
        self._age[at] = torch.arange(self._pushed + count, self._pushed, -1, device=self.device)
        self._count, self._pushed = self._count + count, self._pushed + count
        if self._front is not None:
            self._front = torch.cat([self._front, at[priority <= self._limit]])

    def pop(self, count: int) -> N:
        """Take out so many nodes, or all: those of smallest priority, in that order. There has to have been one."""
        at = self._by_turns(count) if self.in_turns or self.crowded else self._first(count)
        return self._out(at)

    def take_out(self, chosen: Tensor) -> N:
        """Take out nodes chosen by a mask over :meth:`column`."""
        return self._out(self._slots()[chosen])

    def drop(self, chosen: Tensor) -> None:
        """Forget nodes chosen by a mask over :meth:`column`."""
        self._release(self._slots()[chosen])

    # --- looks --------------------------------------------------------------------------------------------------------

    def column(self, name: str) -> Tensor:
        """One column of all waiting nodes; there has to have been one."""
        return self._columns[name][self._slots()]

    def nodes(self) -> N | None:
        """All waiting nodes, which stay; None before the first."""
        return self._read(self._slots()) if self._columns else None

    def least(self, problems: int) -> Tensor:
        """``(B,)`` the smallest bound among each problem's nodes, infinity where none waits."""
        if not self._count:
            return torch.full((problems,), torch.inf, dtype=torch.float64, device=self.device)
        bound = self._columns["bound"]
        if problems == 1:
            return bound.amin().unsqueeze(0)
        return bound.new_full((problems,), torch.inf).scatter_reduce(0, self._columns["problem"], bound, "amin")

    # --- to and from a file -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The waiting nodes, oldest first, with their priorities; :meth:`restore` takes them in again."""
        if not self._columns:
            return {}
        at = self._slots()
        at = at[self._age[at].argsort()]
        columns = self._read(at).columns()
        return {**dict(columns), "priority": self._priority[at]}

    def restore(self, kind: type[N], state: dict[str, Tensor]) -> None:
        """Hold what a :meth:`state` says and nothing else."""
        self.clear()
        if state:
            columns = {name: t.flip(0) for name, t in state.items()}
            priority = columns.pop("priority")
            self.push(kind(**columns), priority)

    # --- slots --------------------------------------------------------------------------------------------------------

    def _lay_out(self, nodes: N) -> None:
        """Columns like those of the first nodes."""
        self._kind = type(nodes)
        light = self._kind.LIGHT
        self._dtypes = {name: t.dtype for name, t in nodes.columns()}
        stored = {name: t.float() if name in light else t for name, t in nodes.columns()}
        self._columns = {name: t.new_zeros(0, *t.shape[1:]) for name, t in stored.items()}
        rows = {name: t[:1].nbytes for name, t in stored.items()}
        self._row_bytes = sum(size for name, size in rows.items() if name not in self._kind.SPARE)
        #: slots that have room for each spare column
        self._room = {name: SPARE_MEMORY // max(rows[name], 1) for name in self._kind.SPARE}
        self._priority = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._live = torch.zeros(0, dtype=torch.bool, device=self.device)
        self._age = torch.zeros(0, dtype=torch.long, device=self.device)
        #: a stack of free slots
        self._free, self._frees = self._age.clone(), 0
        self._front, self._limit = (None if self.in_turns else self._age.clone()), torch.inf

    def _grow(self, needed: int) -> None:
        before = len(self._live)
        by = max(needed, min(before // 2, GROWTH // self._row_bytes))
        for name, t in self._columns.items():
            room = min(before + by, self._room.get(name, before + by)) - len(t)
            fill = torch.inf if name == "bound" else 0
            self._columns[name] = torch.cat([t, t.new_full((room, *t.shape[1:]), fill)])
        self._priority, self._live, self._age = (
            torch.cat([t, t.new_zeros(by)]) for t in (self._priority, self._live, self._age)
        )
        new = torch.arange(before, before + by, device=self.device)
        self._free = torch.cat([self._free[: self._frees], new, self._free[self._frees :]])
        self._frees += by

    def _slots(self) -> Tensor:
        if not self._columns:
            return torch.zeros(0, dtype=torch.long, device=self.device)
        return self._live.nonzero().flatten()

    def _write(self, at: Tensor, nodes: N) -> None:
        for name, column in self._columns.items():
            rows = getattr(nodes, name).to(column.dtype)
            if name in self._room and len(column) < len(self._live):
                there = at < len(column)
                column[at[there]] = rows[there]
            else:
                column[at] = rows

    def _read(self, at: Tensor) -> N:
        found = {}
        for name, column in self._columns.items():
            if name in self._room and len(column) < len(self._live):
                there = at < len(column)
                rows = (
                    column[torch.where(there, at, 0)] if len(column) else column.new_zeros(len(at), *column.shape[1:])
                )
                rows[~there] = torch.nan
            else:
                rows = column[at]
            found[name] = rows.to(self._dtypes[name])
        return self._kind(**found)

    def _out(self, at: Tensor) -> N:
        found = self._read(at)
        self._release(at)
        return found

    def _release(self, at: Tensor) -> None:
        if not len(at):
            return
        self._live[at] = False
        self._columns["bound"][at] = torch.inf
        self._free[self._frees : self._frees + len(at)] = at
        self._frees += len(at)
        self._count -= len(at)
        if self._front is not None:
            self._front = self._front[self._live[self._front]]

    # --- which come first ---------------------------------------------------------------------------------------------

    def _by_turns(self, count: int) -> Tensor:
        at = self._slots()
        priority = self._priority[at]
        return at[smallest_in_turns(self._columns["problem"][at], -priority if self.crowded else priority)[:count]]

    def _first(self, count: int) -> Tensor:
        """The first nodes. A front holds all that come before its limit, so that few have to be looked at."""
        assert self._front is not None
        ahead = max(AHEAD * count, LEAST_AHEAD)
        if len(self._front) < min(count, self._count):
            self._set_front(self._slots(), ahead)
        elif len(self._front) > 2 * ahead:
            self._set_front(self._front, ahead)
        at = self._best(self._front, count)
        at = at[self._age[at].argsort(descending=True)]
        return at[self._priority[at].argsort(stable=True)]

    def _set_front(self, among: Tensor, size: int) -> None:
        self._front = self._best(among, size)
        if len(self._front) < self._count:
            self._limit = float(self._priority[self._front].max())
        else:
            self._limit = torch.inf

    def _best(self, at: Tensor, count: int) -> Tensor:
        """Those of smallest priority among some slots, the newest of equal ones."""
        if not count or count >= len(at):
            return at[:count]
        priority = self._priority[at]
        last = priority.kthvalue(count).values
        before, equal = at[priority < last], at[priority == last]
        newest = self._age[equal].topk(count - len(before)).indices
        return torch.cat([before, equal[newest]])


def smallest_in_turns(group: Tensor, priority: Tensor) -> Tensor:
    """An order of positions: the smallest of every group first, then the second smallest of every group, …"""
    order = priority.argsort(stable=True)
    group = group[order]
    by_group = group.argsort(stable=True)
    grouped = group[by_group]
    rank = torch.empty_like(order)
    rank[by_group] = torch.arange(len(group), device=group.device) - torch.searchsorted(grouped, grouped)
    return order[rank.argsort(stable=True)]
