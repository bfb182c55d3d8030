"""Every bad input: its status, its words, and nothing changed by it."""

import pytest

from tests.service.api.bad_inputs import Case, Subject, cases
from tests.service.api.world import KEY, SERVED, D, N, World
from tests.steering.toys import MODEL

SUBJECT = Subject(
    served=SERVED,
    policy="formal",
    other="casual",
    direction="formal",
    max_strength=2.0,
    model=MODEL,
    d_model=D,
    n_layers=N,
    rows=24,
    key=KEY,
    bare_site="resid_post.1",
)
CASES = [case for case in cases(SUBJECT) if not case.is_vllms]


def test_there_are_enough_and_each_has_its_name():
    assert len(CASES) >= 60
    assert len({case.name for case in cases(SUBJECT)}) == len(cases(SUBJECT))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_input(world: World, case: Case):
    before = (world.governor.status(), world.store.all_active(), world.store.all_artifacts())
    answer = await world.call(case.method, case.path, content=case.body, headers=case.headers)
    assert answer.status_code == case.status, answer.text
    assert case.says in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text
    assert not world.seen
    after = (world.governor.status(), world.store.all_active(), world.store.all_artifacts())
    assert after == before
    assert (await world.chat(policy="formal")).status_code == 200
