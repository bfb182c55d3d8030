import pytest
from torch import nn
from transformers import Gemma3Config

from forward.families import (
    FAMILIES,
    UnsupportedModelError,
    decoder_layers,
    family_of,
    model_shape,
)
from tests.models import CONFIGS, D_MODEL, N_LAYERS, build_model


def test_every_family_has_a_test_model():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_and_sizes_are_found(name):
    model = build_model(name)
    family = family_of(model.config)
    assert family.name == name
    assert len(decoder_layers(model, family)) == N_LAYERS
    for config in (model.config, model.config.to_dict()):
        shape = model_shape(config)
        assert (shape.family, shape.d_model, shape.n_layers) == (family, D_MODEL, N_LAYERS)


def test_a_gemma3_checkpoint_with_vision_is_its_text_model():
    config = Gemma3Config(text_config={"hidden_size": 64, "num_hidden_layers": 3})
    for form in (config, config.to_dict()):
        shape = model_shape(form)
        assert (shape.family.name, shape.d_model, shape.n_layers) == ("gemma3_text", 64, 3)


@pytest.mark.parametrize("config", ["mamba", {"model_type": "llava"}, {}, nn.Identity()])
def test_other_families_are_refused_by_name(config):
    with pytest.raises(UnsupportedModelError, match=r"not supported.*llama, qwen2") as caught:
        family_of(config)
    if isinstance(config, str):
        assert "'mamba'" in str(caught.value)


def test_a_model_of_another_build_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"Identity has no decoder layers at model\.l"):
        decoder_layers(nn.Identity(), FAMILIES["llama"])


def test_a_configuration_without_sizes_is_refused():
    with pytest.raises(UnsupportedModelError, match="states no width"):
        model_shape({"model_type": "llama"})
