"""Hook points: where in the residual stream something is read or written.

One grammar, ``resid_post.12``; the names of TransformerLens and Hugging Face are aliases that
this module alone knows. Layers are 0-based decoder blocks; the embedding is not a layer.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

HookName = Literal["resid_pre", "resid_post"]

_CANONICAL = re.compile(r"(?P<name>resid_pre|resid_post|mlp)\.(?P<layer>[0-9]{1,4})")
_ALIASES = (
    re.compile(r"blocks\.(?P<layer>[0-9]{1,4})\.hook_(?P<name>resid_pre|resid_post)"),
    re.compile(r"(?:model\.layers|transformer\.h)\.(?P<layer>[0-9]{1,4})"),
)


class HookPointError(ValueError):
    """A hook point that does not parse, is not served, or lies outside the model."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A place in the residual stream: the input (pre) or the output (post) of a decoder layer."""

    name: HookName
    layer: int

    def __str__(self) -> str:
        """Return the canonical spelling, such as ``resid_post.12``."""
        return f"{self.name}.{self.layer}"

    @property
    def depth(self) -> int:
        """Position in the order of execution; of two hook points the later has more depth."""
        return 2 * self.layer + (self.name == "resid_post")

    def __lt__(self, other: "HookPoint") -> bool:
        """Order by execution."""
        return self.depth < other.depth

    @classmethod
    def parse(cls, text: str, n_layers: int | None = None) -> "HookPoint":
        """Parse a hook point or one of its aliases.

        Args:
            text: ``resid_post.3``, ``blocks.3.hook_resid_post`` or ``model.layers.3`` (a Hugging
                Face layer name means that layer's output).
            n_layers: If given, the layer must exist.

        Raises:
            HookPointError: The text is no hook point, is not served yet, or has no such layer.
        """
        match = _CANONICAL.fullmatch(text) or _first_alias(text)
        if match is None:
            raise HookPointError(
                f"'{text}' is not a hook point; write resid_pre.L or resid_post.L with a 0-based "
                "layer L, for example resid_post.3"
            )
        name = match.groupdict().get("name") or "resid_post"
        if name not in get_args(HookName):
            raise HookPointError(
                f"'{text}' is not served: {name} sites come with editing; use resid_pre.L or "
                "resid_post.L"
            )
        point = cls("resid_pre" if name == "resid_pre" else "resid_post", int(match["layer"]))
        if n_layers is not None and point.layer >= n_layers:
            raise HookPointError(
                f"'{text}' is outside the model: it has {n_layers} layers, 0 to {n_layers - 1}"
            )
        return point


def _first_alias(text: str) -> re.Match[str] | None:
    return next((m for alias in _ALIASES if (m := alias.fullmatch(text))), None)
