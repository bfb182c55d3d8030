"""Edits in vLLM's projections: what a site adds joins each rank's part before the reduction.

Under LoRA vLLM has put a layer of its own around the projection by then; its adapters add to the
same part.
"""

from typing import Any

from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.lora.layers import RowParallelLinearWithLoRA
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

from forward.edit_site import EditSite
from forward.step import Step
from service.engine.errors import SiteInstallError


class _Edited:
    """What both kinds of projection share: the site, and what the tokens are."""

    edit_site: EditSite
    step: Step


class EditedProjection(_Edited):
    """A projection of vLLM's, with an edit site beside its weight."""

    def forward(self, input_: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """Run the projection as ``RowParallelLinear.forward`` does, with the site's part added."""
        here: Any = self
        bias = None if here.tp_rank > 0 or here.skip_bias_add else here.bias
        part = here.quant_method.apply(here, input_, bias)
        output = part + self.edit_site.run(input_, self.step)
        if here.reduce_results and here.tp_size > 1:
            output = tensor_model_parallel_all_reduce(output)
        if not here.return_bias:
            return output
        return output, here.bias if here.skip_bias_add else None


class EditedAdapted(_Edited):
    """A projection under vLLM's LoRA, with an edit site beside both."""

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return this rank's part: weight, adapters and edits."""
        part: Tensor = super().apply(x, bias)  # type: ignore[misc]
        return part + self.edit_site.run(x, self.step)


def edit_projection(projection: nn.Module, site: EditSite, step: Step) -> None:
    """Put an edit site beside a projection's weight.

    Raises:
        SiteInstallError: The projection is not of a class that is proven, or is quantised.
    """
    adapted = type(projection) is RowParallelLinearWithLoRA
    linear: Any = projection.base_layer if adapted else projection
    if type(linear) is not RowParallelLinear or not linear.input_is_parallel:
        raise SiteInstallError(
            f"{type(projection).__name__} is no projection that edits are proven on: expected "
            "RowParallelLinear with a parallel input; leave out the mlp sites"
        )
    if type(linear.quant_method) is not UnquantizedLinearMethod:
        raise SiteInstallError(
            f"the projection is quantised ({type(linear.quant_method).__name__}): edits are "
            "proven on full-precision weights only; serve the unquantised checkpoint"
        )
    if linear.tp_size > 1:
        if not linear.reduce_results:
            raise SiteInstallError(
                "the projection leaves its sum to a later layer, where an edit's part is not "
                "proven; use --tensor-parallel-size 1"
            )
        site.split(linear.tp_rank, linear.tp_size, tensor_model_parallel_all_reduce)
    steered: Any = projection
    steered.edit_site, steered.step = site, step
    mixin = EditedAdapted if adapted else EditedProjection
    base = type(projection)
    steered.__class__ = type(f"Edited{base.__name__}", (mixin, base), {})
