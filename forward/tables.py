"""Packing: which row, read and write column of a site holds what.

``SiteAllocator`` keeps the books in one process (content digests to table indices, counted) and
says in a ``SitePatch`` what the tables must hold; ``apply_patch`` moves it into a ``Site``, on any
number of ranks. Columns and reads of equal content are shared. A row is always written whole, so
what a freed row or column still holds is never read.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from forward.columns import PARAMETERS, Column, Read
from forward.edit_site import EditSite
from forward.gates import Gate
from forward.program import SiteContent
from forward.site import Capacity, Site
from forward.sites import AnySite


class CapacityError(RuntimeError):
    """A table is full; the message names the table and what to raise."""


class Pool:
    """Indices handed out by content digest and counted."""

    def __init__(self, size: int, what: str, option: str | None = None) -> None:
        """Make a pool of indices 0..size-1.

        ``what`` names them in errors, and ``option`` what makes more of them.
        """
        self._option = option or what.split()[0]
        self._free = list(range(size - 1, -1, -1))
        self._index: dict[str, int] = {}
        self._count: dict[str, int] = {}
        self._size, self._what = size, what

    @property
    def size(self) -> int:
        """Indices there are."""
        return self._size

    @property
    def used(self) -> int:
        """Indices handed out."""
        return len(self._index)

    def index(self, digest: str) -> int:
        """Return the index that holds ``digest``."""
        return self._index[digest]

    def take(self, digest: str) -> bool:
        """Count one more user of ``digest``; return whether it is new here.

        Raises:
            CapacityError: No index is free.
        """
        if digest in self._index:
            self._count[digest] += 1
            return False
        if not self._free:
            raise CapacityError(
                f"no {self._what} left: all {self._size} are in use; start with a larger "
                f"--{self._option}"
            )
        self._index[digest], self._count[digest] = self._free.pop(), 1
        return True

    def give(self, digest: str) -> bool:
        """Count one user less; return whether nobody is left and the index is free."""
        self._count[digest] -= 1
        if self._count[digest]:
            return False
        del self._count[digest]
        self._free.append(self._index.pop(digest))
        return True


@dataclass(frozen=True, eq=False)
class SitePatch:
    """New contents for some reads, columns and rows of one site; indices are int64.

    Shapes for k reads, m columns, r rows: read_index (k,), read_vectors (k, d_in), read_bias (k,),
    column_index (m,), column_writes (m, d), column_parameters (m, len(PARAMETERS)), column_reads
    (m, 2), column_gates (m,), row_index (r,), row_offsets (r, d), row_coefficients (r, n_writes).
    """

    read_index: Tensor
    read_vectors: Tensor
    read_bias: Tensor
    column_index: Tensor
    column_writes: Tensor
    column_parameters: Tensor
    column_reads: Tensor
    column_gates: Tensor
    row_index: Tensor
    row_offsets: Tensor
    row_coefficients: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, for a container."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def apply_patch(site: AnySite, patch: SitePatch) -> None:
    """Write a patch into the tables in place, reads and columns before the rows that use them."""
    if isinstance(site, EditSite):
        site.reads[patch.read_index] = patch.read_vectors[:, site.shard].to(site.reads)
    else:
        site.reads[patch.read_index] = patch.read_vectors.to(site.reads)
        _apply_steering(site, patch)
    site.writes[patch.column_index] = patch.column_writes.to(site.writes)
    site.read_of[patch.column_index] = patch.column_reads[:, 0].to(site.read_of)
    site.gate_of[patch.column_index] = patch.column_gates.to(site.gate_of)
    site.coefficients[patch.row_index] = patch.row_coefficients.to(site.coefficients)


def _apply_steering(site: Site, patch: SitePatch) -> None:
    """Write what an edit does without: biases, kinds of writes, partners, offsets."""
    site.bias[patch.read_index] = patch.read_bias.to(site.bias)
    for name, values in zip(PARAMETERS, patch.column_parameters.unbind(-1), strict=True):
        table: Tensor = getattr(site, name)
        table[patch.column_index] = values.to(table)
    site.partner_of[patch.column_index] = patch.column_reads[:, 1].to(site.partner_of)
    site.offsets[patch.row_index] = patch.row_offsets.to(site.offsets)


class SiteAllocator:
    """The books of one site."""

    def __init__(
        self, d_model: int, capacity: Capacity, name: str, d_in: int | None = None
    ) -> None:
        """Keep books for a site of these sizes; ``name`` appears in errors.

        ``d_in`` is the width of what is read, where it is not that of what is written.
        """
        self._d_model, self._n_writes = d_model, capacity.writes
        self._d_in = d_model if d_in is None else d_in
        option = None if d_in is None else "ranks"
        self._reads = Pool(capacity.reads, f"reads at {name}", option)
        self._columns = Pool(capacity.writes, f"writes at {name}", option)

    @property
    def size(self) -> tuple[int, int]:
        """(reads, writes) there are."""
        return self._reads.size, self._columns.size

    @property
    def used(self) -> tuple[int, int]:
        """(reads, writes) in use."""
        return self._reads.used, self._columns.used

    def place(
        self,
        rows: Sequence[tuple[int, SiteContent]],
        reads: Sequence[Read] = (),
        gate_index: Callable[[Gate], int] | None = None,
    ) -> SitePatch:
        """Book the contents of some rows and return what the tables must hold.

        Args:
            rows: Row numbers and what they hold here.
            reads: Reads that are wanted for their scores, each counted once more.
            gate_index: Where each gate of the rows' columns is; needed if one has a gate.

        Raises:
            CapacityError: They do not fit; the books are as before.
        """
        new_reads: dict[str, Read] = {}
        new_columns: dict[str, Column] = {}
        with ExitStack() as undo:
            for read in reads:
                self._take_read(read, new_reads)
                undo.callback(self.release, (), (read,))
            for column in (column for _, content in rows for column, _ in content.columns):
                self._take(column, new_reads, new_columns)
                undo.callback(self._give, (column,))
            undo.pop_all()
        return self._patch(rows, new_reads.values(), new_columns.values(), gate_index)

    def read_index(self, digest: str) -> int:
        """Return the index of a booked read."""
        return self._reads.index(digest)

    def release(self, contents: Iterable[SiteContent], reads: Iterable[Read] = ()) -> None:
        """Take contents and reads off the books; what nobody else uses is free again."""
        self._give(column for content in contents for column, _ in content.columns)
        for read in reads:
            self._reads.give(read.digest)

    def _take_read(self, read: Read, new: dict[str, Read]) -> None:
        if self._reads.take(read.digest):
            new[read.digest] = read

    def _take(
        self, column: Column, new_reads: dict[str, Read], new_columns: dict[str, Column]
    ) -> None:
        if not self._columns.take(column.digest):
            return
        with ExitStack() as undo:
            undo.callback(self._columns.give, column.digest)
            for read in column.reads:
                self._take_read(read, new_reads)
                undo.callback(self._reads.give, read.digest)
            undo.pop_all()
        new_columns[column.digest] = column

    def _give(self, columns: Iterable[Column]) -> None:
        for column in columns:
            if self._columns.give(column.digest):
                for read in column.reads:
                    self._reads.give(read.digest)

    def _patch(
        self,
        rows: Sequence[tuple[int, SiteContent]],
        reads: Iterable[Read],
        columns: Iterable[Column],
        gate_index: Callable[[Gate], int] | None,
    ) -> SitePatch:
        reads, columns = list(reads), list(columns)
        return SitePatch(
            read_index=_index(self._reads.index(r.digest) for r in reads),
            read_vectors=_stack([r.vector for r in reads], self._d_in),
            read_bias=torch.tensor([r.bias for r in reads], dtype=torch.float32),
            column_index=_index(self._columns.index(c.digest) for c in columns),
            column_writes=_stack([c.write for c in columns], self._d_model),
            column_parameters=torch.tensor([c.parameters for c in columns]).reshape(
                -1, len(PARAMETERS)
            ),
            column_reads=_index(
                self._reads.index(read.digest) if read else 0
                for c in columns
                for read in (c.read, c.partner)
            ).reshape(-1, 2),
            # Gate 0 is always open: columns without a gate point there.
            column_gates=_index(
                1 + gate_index(c.gate) if c.gate and gate_index else 0 for c in columns
            ),
            row_index=_index(row for row, _ in rows),
            row_offsets=_stack([self._offset(c) for _, c in rows], self._d_model),
            row_coefficients=self._coefficients([content for _, content in rows]),
        )

    def _offset(self, content: SiteContent) -> Tensor:
        return torch.zeros(self._d_model) if content.offset is None else content.offset

    def _coefficients(self, contents: Sequence[SiteContent]) -> Tensor:
        table = torch.zeros(len(contents), self._n_writes)
        for row, content in enumerate(contents):
            for column, coefficient in content.columns:
                table[row, self._columns.index(column.digest)] += coefficient
        return table


def _stack(vectors: Sequence[Tensor], width: int) -> Tensor:
    if not vectors:
        return torch.zeros(0, width)
    return torch.stack([vector.to(torch.float32) for vector in vectors])


def _index(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
