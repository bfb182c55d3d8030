import pytest
import torch

from forward.capture import TokenPositionError, capture, capture_at
from forward.hookpoints import HookPoint, HookPointError
from forward.hooks import hook_residual
from tests.models import CONFIGS, N_LAYERS, build_model, prompt

PROMPTS = [prompt(9, 1), prompt(4, 2), prompt(13, 3)]
ALL = [HookPoint(name, layer) for layer in range(N_LAYERS) for name in ("resid_pre", "resid_post")]


@pytest.mark.parametrize("family", CONFIGS)
def test_captures_are_the_hidden_states(family):
    """Hugging Face's own hidden states: entry L is the input of layer L (the last is normed)."""
    model, ids = build_model(family), prompt(12)
    found = capture(model, ids, ALL)
    with torch.inference_mode():
        states = model(
            input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False
        ).hidden_states
    for layer in range(N_LAYERS):
        assert torch.equal(found[HookPoint("resid_pre", layer)], states[layer][0])
        if layer < N_LAYERS - 1:
            assert torch.equal(found[HookPoint("resid_post", layer)], states[layer + 1][0])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("position", ["last_prompt", "mean_prompt", -1, -3])
def test_batched_equals_one_by_one(family, position):
    model, points = build_model(family), [HookPoint("resid_pre", 1), HookPoint("resid_post", 3)]
    found = capture_at(model, PROMPTS, points, position, batch_size=2)
    for point in points:
        assert found[point].shape == (3, model.config.hidden_size)
        for index, ids in enumerate(PROMPTS):
            alone = capture(model, ids, [point])[point]
            expected = {"last_prompt": alone[-1], "mean_prompt": alone.mean(0)}.get(position)
            expected = alone[position] if expected is None else expected
            torch.testing.assert_close(found[point][index], expected, atol=2e-5, rtol=1e-4)


def test_capture_leaves_no_hook_behind():
    model = build_model("llama")
    with pytest.raises(HookPointError, match="outside the model: it has 4 layers"):
        hook_residual(model, {ALL[0]: lambda x: x, HookPoint("resid_post", 4): lambda x: x})
    capture(model, PROMPTS[0], ALL)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("prompts", "position", "message"),
    [
        ([], "last_prompt", "no prompts"),
        ([[1], []], "last_prompt", "one has 0"),
        (PROMPTS, -5, "needs 5 tokens; one has 4"),
        (PROMPTS, 0, "counts from the end"),
    ],
)
def test_positions_that_are_not_there_are_refused(prompts, position, message):
    with pytest.raises(TokenPositionError, match=message):
        capture_at(build_model("llama"), prompts, [ALL[0]], position)
