"""Hook points: where in the model something is read or written.

One grammar, ``resid_post.12``; the names of TransformerLens and Hugging Face are aliases that
this module alone knows. Layers are 0-based decoder blocks; the embedding is not a layer. Steering
and monitors live in the residual stream; ``mlp.12`` is the last projection of a layer's MLP, where
edits act: it reads the projection's input and adds to its output.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

HookName = Literal["resid_pre", "resid_post"]
SiteName = Literal["resid_pre", "mlp", "resid_post"]
"""In the order of execution within a layer."""

_CANONICAL = re.compile(r"(?P<name>resid_pre|resid_post|mlp)\.(?P<layer>[0-9]{1,4})")
_ALIASES = (
    re.compile(r"blocks\.(?P<layer>[0-9]{1,4})\.hook_(?P<name>resid_pre|resid_post)"),
    re.compile(r"(?:model\.layers|transformer\.h)\.(?P<layer>[0-9]{1,4})"),
)


class HookPointError(ValueError):
    """A hook point that does not parse, is not served, or lies outside the model."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A decoder layer's input (pre), its output (post), or its MLP's last projection (mlp)."""

    name: SiteName
    layer: int

    def __str__(self) -> str:
        """Return the canonical spelling, such as ``resid_post.12``."""
        return f"{self.name}.{self.layer}"

    @property
    def depth(self) -> int:
        """Position in the order of execution; of two hook points the later has more depth."""
        return 3 * self.layer + get_args(SiteName).index(self.name)

    @property
    def is_edit(self) -> bool:
        """Whether edits act here; otherwise it is a place in the residual stream."""
        return self.name == "mlp"

    def __lt__(self, other: "HookPoint") -> bool:
        """Order by execution."""
        return self.depth < other.depth

    @classmethod
    def parse(cls, text: str, n_layers: int | None = None) -> "HookPoint":
        """Parse a place in the residual stream, or one of its aliases.

        Args:
            text: ``resid_post.3``, ``blocks.3.hook_resid_post`` or ``model.layers.3`` (a Hugging
                Face layer name means that layer's output).
            n_layers: If given, the layer must exist.

        Raises:
            HookPointError: The text is no such place, or the model has no such layer.
        """
        point = cls.parse_site(text, n_layers)
        if point.is_edit:
            raise HookPointError(
                f"'{text}' is where edits act, not a place in the residual stream; use "
                f"resid_pre.{point.layer} or resid_post.{point.layer}"
            )
        return point

    @classmethod
    def parse_site(cls, text: str, n_layers: int | None = None) -> "HookPoint":
        """Parse any hook point that can have a site: as ``parse``, or ``mlp.3``.

        Raises:
            HookPointError: The text is no hook point, or the model has no such layer.
        """
        match = _CANONICAL.fullmatch(text) or _first_alias(text)
        if match is None:
            raise HookPointError(
                f"'{text}' is not a hook point; write resid_pre.L or resid_post.L (mlp.L for the "
                "site of an edit) with a 0-based layer L, for example resid_post.3"
            )
        name = match.groupdict().get("name") or "resid_post"
        known: tuple[SiteName, ...] = get_args(SiteName)
        point = cls(known[known.index(name)], int(match["layer"]))
        if n_layers is not None and point.layer >= n_layers:
            raise HookPointError(
                f"'{text}' is outside the model: it has {n_layers} layers, 0 to {n_layers - 1}"
            )
        return point


def _first_alias(text: str) -> re.Match[str] | None:
    return next((m for alias in _ALIASES if (m := alias.fullmatch(text))), None)
