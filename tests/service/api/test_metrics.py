"""What ``/metrics`` says."""

import pytest
from prometheus_client import CollectorRegistry

from service.api.metrics import Metrics
from tests.service.api.world import World, binding, steering


def value(world: World, name: str, **labels: str) -> float | None:
    return world.registry.get_sample_value(name, labels)


async def test_requests_are_counted_by_policy_and_outcome(world: World):
    await world.chat(policy="formal")
    await world.chat(policy="formal", model="unknown")
    await world.chat(policy="casual", die=True)
    world.alive[0] = True
    assert value(world, "trimtab_requests_total", policy="formal", outcome="served") == 1
    assert value(world, "trimtab_requests_total", policy="formal", outcome="refused") == 1
    assert value(world, "trimtab_requests_total", policy="casual", outcome="failed") == 1
    assert value(world, "trimtab_requests_total", policy="guard", outcome="served") == 1


async def test_refusals_are_counted_by_code_and_never_by_what_a_client_wrote(world: World):
    await world.chat(policy="made-up-name")
    await world.call("GET", "/made-up-path")
    assert value(world, "trimtab_refusals_total", code="policy_not_found") == 1
    assert value(world, "trimtab_refusals_total", code="not_served") == 1
    page = await world.call("GET", "/metrics", follow_redirects=True)
    assert "made-up" not in page.text


async def test_gauges_are_those_of_the_moment(world: World):
    await world.call("POST", "/trimtab/v1/policies", key=True, json=steering("formal", 2.0))
    page = (await world.call("GET", "/metrics", follow_redirects=True)).text
    assert 'trimtab_policy_info{digest="' in page
    info = [line for line in page.splitlines() if 'name="formal"' in line]
    assert len(info) == 1
    assert 'revision="2"' in info[0]
    used = world.governor.status()["capacity"]["used"]["rows"]
    assert value(world, "trimtab_table_used", table="rows") == used
    assert value(world, "trimtab_generation") == world.governor.catalog.generation
    assert value(world, "trimtab_directory_good") == 1
    assert value(world, "trimtab_changes_total", source="api", outcome="applied") == 1
    assert value(world, "trimtab_activation_seconds_count", source="api") == 1


def test_a_refused_change_counts_as_refused():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    with pytest.raises(ValueError, match="bad"), metrics.change("directory"):
        raise ValueError("bad")
    labels = {"source": "directory", "outcome": "refused"}
    assert registry.get_sample_value("trimtab_changes_total", labels) == 1
    timed = {"source": "directory"}
    assert registry.get_sample_value("trimtab_activation_seconds_count", timed) is None


async def test_state_is_that_of_the_moment(world: World):
    await world.call("GET", "/metrics", follow_redirects=True)
    digest = world.governor.catalog.digest
    assert value(world, "trimtab_bundle_digest") == int(digest[:12], 16)
    assert (value(world, "trimtab_ready"), value(world, "trimtab_engine_up")) == (1, 1)
    canary = {"policy": "casual", "replaces": "guard", "share": 0.25, "by": "request"}
    await world.call(
        "POST", "/trimtab/v1/bindings", key=True, json=binding(mandatory=["guard"], canary=canary)
    )
    world.alive[0] = False
    await world.call("GET", "/metrics", follow_redirects=True)
    assert value(world, "trimtab_bundle_digest") != int(digest[:12], 16)
    assert (value(world, "trimtab_ready"), value(world, "trimtab_engine_up")) == (0, 0)
    assert value(world, "trimtab_canary_share", binding="default") == 0.25
    assert value(world, "trimtab_canary_halted", binding="default") == 0
    world.alive[0] = True
    for _ in range(20):
        await world.chat()
    sides = [
        value(world, "trimtab_canary_requests_total", binding="default", side=s, outcome="served")
        for s in ("canary", "stable")
    ]
    assert sum(side or 0 for side in sides) == 20
    await world.call("POST", "/trimtab/v1/bindings/default/halt", key=True)
    await world.call("GET", "/metrics", follow_redirects=True)
    assert value(world, "trimtab_canary_share", binding="default") == 0
    assert value(world, "trimtab_canary_halted", binding="default") == 1
