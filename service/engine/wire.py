"""Patches on the wire: one safetensors blob from the process that keeps the books to every rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safetensors.torch import load, save
from torch import Tensor

from forward.digest import values_digest
from forward.gates import GatePatch
from forward.hookpoints import HookPoint
from forward.tables import SitePatch

_GATES = "gates"


@dataclass(frozen=True, eq=False)
class TableUpdate:
    """What to write: the patches of each site, new gates, and what rows and reads now hold."""

    patches: Mapping[HookPoint, SitePatch]
    rows: Mapping[int, str]
    """Content digest by row."""
    gates: GatePatch | None = None
    reads: Mapping[int, str] = field(default_factory=dict[int, str])
    """Content digest of watched reads by score column."""

    def dump(self) -> bytes:
        """Return patches and gates as safetensors."""
        named = {str(point): patch.tensors() for point, patch in self.patches.items()}
        if self.gates is not None:
            named[_GATES] = self.gates.tensors()
        return save(
            {
                f"{owner}/{name}": tensor.contiguous()
                for owner, tensors in named.items()
                for name, tensor in tensors.items()
            }
        )

    @classmethod
    def parse(cls, blob: bytes, rows: Mapping[int, str], reads: Mapping[int, str]) -> "TableUpdate":
        """Read what ``dump`` wrote."""
        by_owner: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load(blob).items():
            owner, name = key.split("/")
            by_owner.setdefault(owner, {})[name] = tensor
        gates = GatePatch(**by_owner.pop(_GATES)) if _GATES in by_owner else None
        patches = {HookPoint.parse_site(p): SitePatch(**tensors) for p, tensors in by_owner.items()}
        return cls(patches, rows, gates, reads)


def dump_factors(u: Tensor, v: Tensor) -> bytes:
    """Return the factors of one layer's change, u (d_out, r) and v (r, d_in), as safetensors."""
    return save({"u": u.contiguous(), "v": v.contiguous()})


def parse_factors(blob: bytes) -> tuple[Tensor, Tensor]:
    """Read what ``dump_factors`` wrote.

    Raises:
        SafetensorError, KeyError: It is something else.
    """
    tensors = load(blob)
    return tensors["u"], tensors["v"]


def table_digest(rows: Mapping[int, str], reads: Mapping[int, str]) -> str:
    """Return the identity of a rank's rows and watched reads, to compare ranks by."""
    return values_digest(tuple(sorted(rows.items())), tuple(sorted(reads.items())))
