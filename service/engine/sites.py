"""Sites in vLLM's layers and projections: a module's class is changed, its parameters are not.

A wrapper module would rename every parameter and break weight reloading; a forward hook would not
be traced. A subclass of the layer's own class is traced into the compiled graph like the layer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from forward.edit_site import EditSite
from forward.families import Family, ModelShape, mlp_projection
from forward.hookpoints import HookPoint
from forward.residual import add_delta, stream
from forward.site import Capacity, Site
from forward.sites import AnySite, make_sites
from forward.step import Step
from service.engine.edited import edit_projection
from service.engine.errors import SiteInstallError


class _Steered:
    """What both kinds of layer share: the sites before and after, and what the tokens are."""

    site_pre: Site | None
    site_post: Site | None
    step: Step


class PairLayer(_Steered):
    """A layer that takes and returns (hidden, residual), whose sum is the residual stream."""

    def forward(
        self,
        positions: Tensor,
        hidden_states: Tensor,
        residual: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer with its sites; a delta goes to the hidden half."""
        if self.site_pre is not None:
            delta = self.site_pre.run(stream(hidden_states, residual), self.step)
            hidden_states, residual = add_delta(hidden_states, residual, delta)
        hidden_states, residual = super().forward(  # type: ignore[misc]
            positions, hidden_states, residual, *args, **kwargs
        )
        if self.site_post is not None:
            delta = self.site_post.run(stream(hidden_states, residual), self.step)
            hidden_states, residual = add_delta(hidden_states, residual, delta)
        return hidden_states, residual


class PlainLayer(_Steered):
    """A layer that takes and returns the residual stream itself."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer with its sites."""
        if self.site_pre is not None:
            hidden_states = hidden_states + self.site_pre.run(hidden_states, self.step)
        hidden_states = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        if self.site_post is not None:
            hidden_states = hidden_states + self.site_post.run(hidden_states, self.step)
        return hidden_states


def install_sites(
    layers: Iterable[nn.Module],
    shape: ModelShape,
    capacities: Mapping[HookPoint, Capacity],
    step: Step,
) -> dict[HookPoint, AnySite]:
    """Put a site at every hook point and return them.

    Raises:
        SiteInstallError: A layer or projection is not of a class that is proven.
        UnsupportedModelError: A layer has no projection that edits can change.
    """
    sites = make_sites(shape.d_model, capacities, step.rows.device, shape.d_mlp)
    for index, layer in enumerate(layers):
        pre = sites.get(HookPoint("resid_pre", index))
        post = sites.get(HookPoint("resid_post", index))
        if isinstance(pre, Site) or isinstance(post, Site):
            _steer_layer(layer, shape.family, pre, post, step)
        edited = sites.get(HookPoint("mlp", index))
        if isinstance(edited, EditSite):
            edit_projection(mlp_projection(layer, shape.family), edited, step)
    return sites


def _steer_layer(
    layer: nn.Module, family: Family, pre: AnySite | None, post: AnySite | None, step: Step
) -> None:
    base = type(layer)
    if base.__name__ not in family.vllm_layers:
        raise SiteInstallError(
            f"layer class {base.__name__} is not one that is proven for {family.name} "
            f"({', '.join(family.vllm_layers)}); no site was put in"
        )
    steered: Any = layer
    steered.site_pre, steered.site_post, steered.step = pre, post, step
    mixin = PairLayer if family.returns_pair else PlainLayer
    steered.__class__ = type(f"Steered{base.__name__}", (mixin, base), {})
