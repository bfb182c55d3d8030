"""Forward hooks at hook points of a Hugging Face model, installed and removed as one."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from forward.families import decoder_layers, family_of
from forward.hookpoints import HookPoint, HookPointError

Transform = Callable[[Tensor], Tensor | None]
"""Takes the residual, (batch, tokens, d_model); returns its replacement, or None to leave it."""


class _Removable(Protocol):
    def remove(self) -> None: ...


class HookHandle:
    """Installed hooks; ``remove`` (or leaving the ``with`` block) leaves the model as found."""

    def __init__(self, handles: list[_Removable]) -> None:
        """Own the hooks behind these handles."""
        self._handles = handles

    def own(self, handle: _Removable) -> None:
        """Take one more hook out with the others."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Take the hooks out; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        """Return the handle."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks out."""
        self.remove()


def hook_residual(model: nn.Module, transforms: Mapping[HookPoint, Transform]) -> HookHandle:
    """Call a function on the residual at each hook point of every forward pass.

    Args:
        model: A Hugging Face causal language model of a supported family.
        transforms: ``resid_pre.L`` sees the input of layer L, ``resid_post.L`` its output.

    Raises:
        UnsupportedModelError: The family is not supported.
        HookPointError: A hook point lies outside the model; no hook stays installed.
    """
    layers = decoder_layers(model, family_of(model.config))
    handle = HookHandle(handles := [])
    for point, transform in transforms.items():
        if point.layer >= len(layers):
            handle.remove()
            raise HookPointError(f"'{point}' is outside the model: it has {len(layers)} layers")
        layer = layers[point.layer]
        if point.name == "resid_pre":
            handles.append(layer.register_forward_pre_hook(_before(transform), with_kwargs=True))
        else:
            handles.append(layer.register_forward_hook(_after(transform)))
    return handle


def _before(transform: Transform) -> Callable[..., tuple[Any, Any] | None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = transform(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        changed = transform(kwargs["hidden_states"])
        return None if changed is None else (args, kwargs | {"hidden_states": changed})

    return hook


def _after(transform: Transform) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor | tuple[Any, ...]) -> Any:
        if isinstance(output, tuple):
            changed = transform(output[0])
            return None if changed is None else (changed, *output[1:])
        return transform(output)

    return hook
