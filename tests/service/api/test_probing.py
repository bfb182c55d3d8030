"""Probes: what is asked and under what, what is told of them, and what must not hear of them.

In the engine's place stands an app whose monitor fires on a prompt that has the word 'bomb'.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

from monitors import probe_card
from service.api.inside import Inside
from service.api.lookout import Lookout
from service.api.observer import Observer
from service.api.probing import Prober
from service.engine.lease import CURRENT_LEASE, Lease
from service.probes import selection_of, uses_of
from service.report import CURRENT_REPORT, ChoiceReport
from service.verdicts import Verdict
from tests.service.api.test_monitors import V1, add, apply, calibrated, guard, monitor
from tests.service.api.world import World, binding, build, document, server_of
from tests.service.monitored import PROMPTING, post, probe

PROBES = {"bad": ["make a bomb", "buy a bomb"], "good": ["bake bread"], "every_seconds": 60}
HARM = monitor(read={"probe": "harm-1"}, tokens="prompt", probes=PROBES)


@dataclass
class Scripted:
    """In vLLM's place: gives a verdict of each watched monitor, as the engine's wrapper does."""

    world: World
    status: int = 200
    fault: str | None = None
    is_mute: bool = False
    seen: list[tuple[Lease, dict[str, Any], dict[str, str]]] = field(default_factory=list[Any])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        lease, report = CURRENT_LEASE.get(), CURRENT_REPORT.get()
        assert lease is not None and report is not None
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.seen.append((lease, body, headers))
        text = " ".join(message["content"] for message in body["messages"])
        verdicts = tuple(self._verdict(w.monitor, w.policy, "bomb" in text) for w in lease.watched)
        server = server_of(self.world)
        observer = Observer(server.metrics, server.events)
        made = ChoiceReport("r", "a", 0, 4, 1, verdicts)
        if not self.is_mute:
            report.begin()
            report.add(made)
            observer.decided(made)
            observer.held("watchful", 1.0)
            observer.recomputed(4)
            asyncio.get_running_loop().call_soon(report.decided)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def _verdict(self, monitor: str, policy: str, fires: bool) -> Verdict:
        return Verdict(
            monitor, "prompt", policy, "shadow", "alert", 950.0, 900.0, 1.3,
            fires and self.fault is None, None, None, False, 4, 4, {}, self.fault, "block",
        )  # fmt: skip


@dataclass
class Probed:
    world: World
    engine: Scripted
    prober: Prober

    def value(self, name: str, **labels: str) -> float | None:
        labels = {"monitor": "harm", "policy": "watchful"} | labels
        return self.world.registry.get_sample_value(name, labels)

    async def decisions(self) -> list[dict[str, Any]]:
        log = server_of(self.world).decisions
        await log.close()
        page = await self.world.call("GET", f"{V1}/decisions", key=True)
        return page.json()["decisions"]


def prober(world: World, engine: Scripted) -> Prober:
    """What asks a scripted engine in the place of the world's own."""
    server = server_of(world)
    return Prober(Inside(world.app, engine, server.keys), server)


@pytest_asyncio.fixture
async def probed() -> AsyncIterator[Probed]:
    world = await build(points=[post(k) for k in (0, 1, 2, 3)], prompting=PROMPTING)
    assert (await add(world, probe_card.to_artifact(probe("harm-1")))).status_code == 201
    assert (await add(world, calibrated())).status_code == 201
    watch = guard(monitors={"harm": {"mode": "shadow", "fpr": 0.1, "do": "alert"}})
    answer = await apply(world, HARM, watch)
    assert answer.status_code == 200, answer.text
    engine = Scripted(world)
    yield Probed(world, engine, prober(world, engine))
    world.store.close()


async def test_a_round_asks_everything_once_and_says_what_fired(probed: Probed):
    await probed.prober.look()
    asked = [body["messages"][0]["content"] for _, body, _ in probed.engine.seen]
    assert asked == ["make a bomb", "buy a bomb", "bake bread"]
    assert probed.value("trimtab_probe_fired", kind="bad") == 1
    assert probed.value("trimtab_probe_fired", kind="good") == 0
    assert probed.value("trimtab_probes_total", kind="bad", outcome="fired") == 2
    assert probed.value("trimtab_probe_interval_seconds") == 60
    first = probed.value("trimtab_probe_last_round_timestamp_seconds")
    await probed.prober.look()  # not due
    assert len(probed.engine.seen) == 3
    assert probed.value("trimtab_probe_last_round_timestamp_seconds") == first


async def test_a_silent_monitor_an_unfit_one_and_one_that_says_nothing_do_not_fire(probed: Probed):
    probed.engine.fault = "calibration"
    await probed.prober.look()
    assert probed.value("trimtab_probe_fired", kind="bad") == 0
    assert probed.value("trimtab_probes_total", kind="bad", outcome="fault") == 2
    again = prober(probed.world, probed.engine)
    probed.engine.fault, probed.engine.status = None, 500
    await again.look()
    assert probed.value("trimtab_probe_fired", kind="bad") == 0
    assert probed.value("trimtab_probes_total", kind="bad", outcome="failed") == 2
    once_more = prober(probed.world, probed.engine)
    probed.engine.status, probed.engine.is_mute = 200, True
    await once_more.look()
    assert probed.value("trimtab_probes_total", kind="bad", outcome="failed") == 4


async def test_probes_count_as_no_traffic_and_raise_no_events(probed: Probed):
    await probed.prober.look()
    page = (await probed.world.call("GET", "/metrics", follow_redirects=True)).text
    traffic = ("trimtab_requests_total{", "trimtab_monitor_verdicts_total{", "trimtab_canary_")
    assert not [line for line in page.splitlines() if line.startswith(traffic)]
    assert probed.value("trimtab_monitor_score_count", stage="prompt") is None
    assert "trimtab_prefix_tokens_recomputed_total 0.0" in page
    assert "trimtab_monitor_hold_seconds_count" not in page
    server = server_of(probed.world)
    assert server.metrics.monitors.recent.found(server.governor.watching.applied["watchful"]) == {}
    await server.events.close()
    events = await probed.world.call("GET", f"{V1}/events", key=True)
    assert events.json()["events"] == []


async def test_decision_records_say_what_a_probe_is_and_the_report_leaves_it_out(probed: Probed):
    await probed.prober.look()
    await probed.world.chat(policy="watchful")
    found = await probed.decisions()
    probes = [record["probe"] for record in found]
    assert probes[0] is None
    assert probes[1:] == [{"monitor": "harm", "kind": k} for k in ("good", "bad", "bad")]
    assert {record["caller"]["name"] for record in found[1:]} == {"probe"}
    assert [p["policy"] for p in found[1]["policies"]] == ["guard@1", "watchful@1"]
    asked = await probed.world.call("GET", f"{V1}/decisions?key=probe", key=True)
    assert [record["request"] for record in asked.json()["decisions"]] == [
        record["request"] for record in found[1:]
    ]
    shown = await probed.world.call("GET", f"{V1}/overview", key=True)
    assert sum(shown.json()["requests"]) == 1
    report = await probed.world.call("GET", f"{V1}/verdicts", key=True)
    assert [use for use in report.json()["uses"] if use["policy"] == "watchful@1"] == []


async def test_a_probe_is_no_longer_than_its_monitor_reads(probed: Probed):
    await probed.prober.look()
    assert {body["max_tokens"] for _, body, _ in probed.engine.seen} == {1}
    probed.engine.seen.clear()
    talk = [{"role": "system", "content": "a bomb"}, {"role": "user", "content": "go"}]
    probes = {"bad": [talk], "tokens": 7}
    said = monitor("said", read={"probe": "harm-1"}, tokens="generation", probes=probes)
    use = {"mode": "shadow", "above": 1.0, "do": "log"}
    await apply(probed.world, said, guard("other", monitors={"said": use}))
    await probed.prober.look()
    [(_, body, _)] = probed.engine.seen
    assert (body["messages"], body["max_tokens"], body["temperature"]) == (talk, 7, 0)


async def test_a_changed_policy_is_probed_at_once_and_one_that_is_off_is_not(probed: Probed):
    await probed.prober.look()
    off = {"set": {"monitors.harm.mode": "off"}}
    await probed.world.call("POST", f"{V1}/policies/watchful/set", key=True, json=off)
    await probed.prober.look()
    assert len(probed.engine.seen) == 3
    assert probed.value("trimtab_probe_fired", kind="bad") is None
    on = {"set": {"monitors.harm.mode": "shadow"}}
    await probed.world.call("POST", f"{V1}/policies/watchful/set", key=True, json=on)
    await probed.prober.look()
    assert len(probed.engine.seen) == 6
    assert probed.value("trimtab_probe_fired", kind="bad") == 1


async def test_nothing_is_asked_while_requests_are_not_served(probed: Probed):
    probed.world.alive[0] = False
    await probed.prober.look()
    assert probed.engine.seen == []
    assert probed.value("trimtab_probe_last_round_timestamp_seconds") is not None


async def test_a_mandatory_policy_is_probed_where_it_is_mandatory(probed: Probed):
    world = probed.world
    await apply(world, binding(mandatory=["watchful"], policy="none"))
    catalog = world.governor.catalog
    [use] = uses_of(catalog, world.governor.monitors)
    found = selection_of(catalog, use.policy)
    assert (found.chosen, found.stack) == (None, ("watchful",))
    assert [policy.name for policy in found.mandatory] == ["watchful"]
    await apply(world, binding(mandatory=["guard"], policy="none"))
    catalog = world.governor.catalog
    found = selection_of(catalog, catalog.policies["watchful"])
    assert found.chosen is not None and found.chosen.name == "watchful"
    assert found.stack == ("guard",)


async def test_the_lease_is_given_back(probed: Probed):
    await probed.prober.look()
    assert probed.world.governor.status()["capacity"]["draining"] == 0
    await apply(probed.world, guard(mode="shadow", monitors={}))
    assert probed.world.governor.status()["capacity"]["draining"] == 0


async def test_a_key_of_vllm_s_own_is_sent_along(probed: Probed):
    world = await build(api_keys=["k1"], points=[post(1), post(2)], prompting=PROMPTING)
    await add(world, probe_card.to_artifact(probe("harm-1")))
    use = {"mode": "shadow", "above": 1.0, "do": "log"}
    await apply(world, HARM, document("watchful", monitors={"harm": use}))
    engine = Scripted(world)
    await prober(world, engine).look()
    assert {headers["authorization"] for _, _, headers in engine.seen} == {"Bearer k1"}
    world.store.close()


async def test_the_lookout_runs_until_it_is_cancelled(probed: Probed):
    lookout = probed.world.app.state.lookout
    assert isinstance(lookout, Lookout)
    running = asyncio.create_task(Lookout(server_of(probed.world), probed.prober).run())
    async with asyncio.timeout(10):
        while len(probed.engine.seen) < 3:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_part_that_breaks_is_logged_and_takes_no_other_with_it(
    probed: Probed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def broken() -> None:
        raise RuntimeError("a fault of ours")

    lookout = Lookout(server_of(probed.world), probed.prober)
    monkeypatch.setattr(lookout, "_drift", broken)
    running = asyncio.create_task(lookout.run())
    async with asyncio.timeout(10):
        while len(probed.engine.seen) < 3:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert "a fault of ours" in caplog.text
