"""Programs on the wire between API processes: what they say as msgpack, tensors as safetensors.

Rejected: pickles, even between processes of one server, since what reads them runs what they say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from forward.clauses import Region, TokenClause
from forward.columns import PARAMETERS, Column, Read
from forward.gates import Gate
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent, Watch

_PARAMETERS = tuple(name for name in PARAMETERS if name != "by_norm")


class ProgramWireError(ValueError):
    """What came is not the program that was sent."""


class _Packed(msgspec.Struct, array_like=True):
    digest: str
    regions: list[tuple[Any, int]]
    rows: list[dict[str, list[Any]]]
    """The distinct rows; at each site its offset and its columns."""
    row_of: list[int]
    """The row of each region."""
    watched: list[tuple[str, list[Any]]]
    tensors: bytes


@dataclass(eq=False)
class _Packer:
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    _names: dict[int, str] = field(default_factory=dict[int, str])

    def tensor(self, tensor: Tensor) -> str:
        name = self._names.setdefault(id(tensor), str(len(self._names)))
        if name not in self.tensors:
            # Cloned: safetensors refuses tensors that share memory.
            self.tensors[name] = tensor.detach().cpu().contiguous().clone()
        return name

    def read(self, read: Read | None) -> list[Any] | None:
        return None if read is None else [self.tensor(read.vector), read.bias]

    def gate(self, gate: Gate | None) -> list[Any] | None:
        if gate is None:
            return None
        heard = gate.listens
        listens = None if heard is None else [heard.phase, heard.start]
        return [str(gate.point), self.read(gate.read), gate.threshold, gate.above, listens]

    def column(self, column: Column) -> list[Any]:
        numbers = [float(getattr(column, name)) for name in _PARAMETERS]
        reads = [self.read(column.read), self.read(column.partner)]
        return [self.tensor(column.write), *reads, numbers, column.by_norm, self.gate(column.gate)]

    def site(self, site: SiteContent) -> list[Any]:
        offset = None if site.offset is None else self.tensor(site.offset)
        return [offset, [[self.column(column), c] for column, c in site.columns]]

    def row(self, row: RowContent) -> dict[str, list[Any]]:
        return {str(point): self.site(site) for point, site in row.sites.items()}


@dataclass(frozen=True, eq=False)
class _Unpacker:
    tensors: dict[str, Tensor]

    def read(self, packed: Sequence[Any] | None) -> Read | None:
        return None if packed is None else self.sure_read(packed)

    def sure_read(self, packed: Sequence[Any]) -> Read:
        name, bias = packed
        return Read(self.tensors[name], bias)

    def gate(self, packed: Sequence[Any] | None) -> Gate | None:
        if packed is None:
            return None
        point, read, threshold, above, listens = packed
        heard = None if listens is None else TokenClause(*listens)
        return Gate(HookPoint.parse_site(point), self.sure_read(read), threshold, above, heard)

    def column(self, packed: Sequence[Any]) -> Column:
        write, read, partner, numbers, by_norm, gate = packed
        parameters: dict[str, Any] = dict(zip(_PARAMETERS, numbers, strict=True))
        return Column(
            self.tensors[write],
            self.read(read),
            self.read(partner),
            **parameters,
            by_norm=by_norm,
            gate=self.gate(gate),
        )

    def site(self, packed: Sequence[Any]) -> SiteContent:
        offset, columns = packed
        made = tuple((self.column(column), c) for column, c in columns)
        return SiteContent(None if offset is None else self.tensors[offset], made)

    def row(self, packed: dict[str, list[Any]]) -> RowContent:
        sites = {HookPoint.parse_site(point): self.site(site) for point, site in packed.items()}
        return RowContent(sites)


def dump_program(program: Program) -> bytes:
    """Return a program as bytes."""
    packer = _Packer()
    places = {content.digest: index for index, content in enumerate(_distinct(program))}
    packed = _Packed(
        program.digest,
        [(region.phase, region.start) for region in program.regions],
        [packer.row(content) for content in _distinct(program)],
        [places[content.digest] for content in program.contents],
        [(str(watch.point), packer.read(watch.read) or []) for watch in program.watched],
        b"",
    )
    packed.tensors = save(packer.tensors)
    return msgspec.msgpack.encode(packed)


def parse_program(data: bytes) -> Program:
    """Read what ``dump_program`` wrote.

    Raises:
        ProgramWireError: It is something else, or not what was sent.
    """
    try:
        packed = msgspec.msgpack.decode(data, type=_Packed)
        unpacker = _Unpacker(load(packed.tensors))
        rows = [unpacker.row(row) for row in packed.rows]
        program = Program(
            tuple(Region(phase, start) for phase, start in packed.regions),
            tuple(rows[index] for index in packed.row_of),
            tuple(Watch(HookPoint.parse_site(p), unpacker.sure_read(r)) for p, r in packed.watched),
        )
    except (msgspec.DecodeError, SafetensorError, ValueError, TypeError, LookupError) as error:
        raise ProgramWireError(f"no program can be read from what came: {error}") from error
    if program.digest != packed.digest:
        raise ProgramWireError(f"program {packed.digest} came as {program.digest}")
    return program


def _distinct(program: Program) -> list[RowContent]:
    return list({content.digest: content for content in program.contents}.values())
