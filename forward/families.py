"""Supported model families: where the decoder layers are, and what a layer passes on.

A family is listed once its identity test passes: the residual at each hook point in vLLM equals
Hugging Face's, and a write there changes what follows as it does there. vLLM's layer classes are
named as strings, since nothing here may import vLLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from torch import nn


class UnsupportedModelError(ValueError):
    """A model of a family whose residual stream is not proven here."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of the models with one ``model_type``.

    Attributes:
        name: ``model_type`` of the (text) configuration.
        layer_paths: Dotted paths from the causal language model to its list of decoder layers;
            the first that exists counts. The same path holds in vLLM's model.
        vllm_layers: Names of vLLM's decoder layer classes.
        returns_pair: Whether vLLM's layer takes and returns (hidden, residual), whose sum is the
            residual stream; otherwise it takes and returns the stream. Hugging Face's layers
            always pass the stream.
        eager_attention: Whether only eager attention computes the family exactly in Hugging Face
            (soft-capped attention scores).
        mlp_projection: Dotted path, in a layer, of the MLP's last projection: what edits change.
        normalises_mlp: Whether a norm stands between that projection and the residual stream.
    """

    name: str
    layer_paths: tuple[str, ...]
    vllm_layers: tuple[str, ...]
    returns_pair: bool = True
    eager_attention: bool = False
    mlp_projection: str = "mlp.down_proj"
    normalises_mlp: bool = False


_LAYERS = ("model.layers",)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("llama", _LAYERS, ("LlamaDecoderLayer",)),
        Family("qwen2", _LAYERS, ("Qwen2DecoderLayer",)),
        Family("qwen3", _LAYERS, ("Qwen3DecoderLayer",)),
        Family("mistral", _LAYERS, ("MistralDecoderLayer",)),
        Family(
            "gemma2",
            _LAYERS,
            ("Gemma2DecoderLayer",),
            eager_attention=True,
            normalises_mlp=True,
        ),
        Family(
            "gemma3_text",
            ("model.layers", "model.language_model.layers"),
            ("Gemma3DecoderLayer",),
            normalises_mlp=True,
        ),
        Family("phi3", _LAYERS, ("LlamaDecoderLayer",)),
        Family(
            "gpt2",
            ("transformer.h",),
            ("GPT2Block",),
            returns_pair=False,
            mlp_projection="mlp.c_proj",
        ),
    )
}

_WRAPPERS = {"gemma3": "gemma3_text"}
"""Configurations that hold a supported text model under ``text_config``."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model: family, width of the residual, decoder layers, width inside the MLP."""

    family: Family
    d_model: int
    n_layers: int
    d_mlp: int


def family_of(config: object) -> Family:
    """Return the family of a model.

    Args:
        config: A Hugging Face configuration (an object or its JSON as a mapping) or a
            ``model_type``.

    Raises:
        UnsupportedModelError: The family is not supported.
    """
    model_type = config if isinstance(config, str) else _field(config, "model_type")
    name = _WRAPPERS.get(str(model_type), str(model_type))
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"model family '{model_type}' is not supported: its residual stream is not proven "
            f"here; serve a model of one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def text_config(config: object) -> object:
    """Return the part of a configuration that describes the language model."""
    if str(_field(config, "model_type")) in _WRAPPERS:
        return _field(config, "text_config")
    return config


def model_shape(config: object) -> ModelShape:
    """Return the sizes that a configuration (object or mapping) states.

    Raises:
        UnsupportedModelError: The family is not supported, or a size is missing.
    """
    family, text = family_of(config), text_config(config)
    d_model = _field(text, "hidden_size") or _field(text, "n_embd")
    n_layers = _field(text, "num_hidden_layers") or _field(text, "n_layer")
    if not isinstance(d_model, int) or not isinstance(n_layers, int):
        raise UnsupportedModelError(
            f"the {family.name} configuration states no width or number of layers; expected "
            "hidden_size and num_hidden_layers"
        )
    d_mlp = _field(text, "intermediate_size") or _field(text, "n_inner")
    return ModelShape(family, d_model, n_layers, d_mlp if isinstance(d_mlp, int) else 4 * d_model)


def decoder_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """Return the decoder layers of a Hugging Face or vLLM causal language model, in order.

    Raises:
        UnsupportedModelError: The model has no list of layers where the family has it.
    """
    for path in family.layer_paths:
        found = reduce(lambda module, name: getattr(module, name, None), path.split("."), model)
        if isinstance(found, nn.ModuleList):
            return found
    raise UnsupportedModelError(
        f"{type(model).__name__} has no decoder layers at {' or '.join(family.layer_paths)}, "
        f"where {family.name} models have them"
    )


def mlp_projection(layer: nn.Module, family: Family) -> nn.Module:
    """Return the last projection of a decoder layer's MLP, in Hugging Face or vLLM.

    Raises:
        UnsupportedModelError: The layer has none (a mixture of experts has one an expert).
    """
    module: nn.Module | None = layer
    for name in family.mlp_projection.split("."):
        module = getattr(module, name, None)
    if not isinstance(module, nn.Module):
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no {family.mlp_projection} (a mixture of experts?): edits "
            "are defined for one dense projection a layer"
        )
    return module


def _field(config: object, name: str) -> object:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
