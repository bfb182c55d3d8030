"""Patches on the wire: one safetensors blob from the process that keeps the books to every rank."""

from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import load, save
from torch import Tensor

from forward.digest import values_digest
from forward.hookpoints import HookPoint
from forward.tables import SitePatch


@dataclass(frozen=True, eq=False)
class TableUpdate:
    """What to write: the patches of each site, and which row now holds which content."""

    patches: Mapping[HookPoint, SitePatch]
    rows: Mapping[int, str]
    """Content digest by row."""

    def dump(self) -> bytes:
        """Return the patches as safetensors."""
        return save(
            {
                f"{point}/{name}": tensor.contiguous()
                for point, patch in self.patches.items()
                for name, tensor in patch.tensors().items()
            }
        )

    @classmethod
    def parse(cls, blob: bytes, rows: Mapping[int, str]) -> "TableUpdate":
        """Read what ``dump`` wrote."""
        by_site: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load(blob).items():
            point, name = key.split("/")
            by_site.setdefault(point, {})[name] = tensor
        patches = {HookPoint.parse(p): SitePatch(**tensors) for p, tensors in by_site.items()}
        return cls(patches, rows)


def table_digest(rows: Mapping[int, str]) -> str:
    """Return the identity of all rows of a rank's tables, to compare ranks by."""
    return values_digest(tuple(sorted(rows.items())))
