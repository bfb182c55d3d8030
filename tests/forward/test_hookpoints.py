import pytest

from forward.hookpoints import HookPoint, HookPointError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("resid_post.3", "resid_post.3"),
        ("resid_pre.0", "resid_pre.0"),
        ("blocks.3.hook_resid_post", "resid_post.3"),
        ("blocks.12.hook_resid_pre", "resid_pre.12"),
        ("model.layers.7", "resid_post.7"),
        ("transformer.h.2", "resid_post.2"),
    ],
)
def test_every_spelling_parses_to_one_name(text, canonical):
    point = HookPoint.parse(text)
    assert str(point) == canonical
    assert HookPoint.parse(canonical) == point


@pytest.mark.parametrize(
    "text",
    ["", "resid_post", "resid_post.-1", "resid_post.1.2", "resid_mid.3", "RESID_POST.3",
     "resid_post.3 ", "resid_post.٣", "model.layers.3.mlp", "blocks.3.hook_mlp_out", "mlp.99999"],
)  # fmt: skip
def test_what_is_no_hook_point_is_refused(text):
    with pytest.raises(HookPointError, match="not a hook point"):
        HookPoint.parse(text)


def test_mlp_is_a_site_but_no_place_in_the_stream():
    with pytest.raises(HookPointError, match=r"use resid_pre\.3 or resid_post\.3"):
        HookPoint.parse("mlp.3")
    point = HookPoint.parse_site("mlp.3")
    assert str(point) == "mlp.3" and point.is_edit
    assert HookPoint("resid_pre", 3) < point < HookPoint("resid_post", 3) < HookPoint("mlp", 4)
    with pytest.raises(HookPointError, match="2 layers, 0 to 1"):
        HookPoint.parse_site("mlp.2", n_layers=2)


def test_layer_outside_the_model_is_refused():
    assert HookPoint.parse("resid_post.3", n_layers=4).layer == 3
    with pytest.raises(HookPointError, match="4 layers, 0 to 3"):
        HookPoint.parse("resid_post.4", n_layers=4)


def test_order_is_the_order_of_execution():
    names = ["resid_post.1", "resid_pre.2", "resid_post.0", "resid_pre.0", "resid_pre.1"]
    ordered = [str(point) for point in sorted(map(HookPoint.parse, names))]
    assert ordered == ["resid_pre.0", "resid_post.0", "resid_pre.1", "resid_post.1", "resid_pre.2"]
