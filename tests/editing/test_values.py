"""Values: the loss, the ball, and that sharing passes changes nothing."""

import pytest
import torch

from editing.contexts import Contexts, Rows, rows_of, sampled_contexts
from editing.delta import Factors, LowRankDelta, beside
from editing.facts import Group, parse_facts
from editing.keys import mean_keys, mean_stream
from editing.projections import projection
from editing.spans import Row
from editing.values import ValueRecipe, fit_values
from tests.editing.plain_values import plain_value
from tests.models import prompt

CONTEXTS = Contexts(("w60 w61 w62 ",), ("w70 w71",))


def groups(words, n: int) -> list[Rows]:
    """Facts of different lengths, every second with a question and kept prompts."""
    found = []
    for i in range(n):
        fact = {
            "prompt": "w20 {} w21 w22" + " w23" * (i % 3),
            "subject": f"w{100 + i} w{150 + i}",
            "target": f"w{200 + i}" + f" w{210 + i}" * (i % 2),
        }
        if i % 2:
            fact |= {"also": [{"ask": "w30 {} w31", "answer": "w32"}], "keep": ["{} w40", "{} w41"]}
        (parsed,) = parse_facts([fact])
        found.append(rows_of(words, Group(parsed.subject, (parsed,)), CONTEXTS))
    return found


def test_rows_are_what_the_contexts_say(words):
    plain, asked = groups(words, 2)
    texts = [words.decode(row.ids) for row in plain.stated]
    assert texts == ["<s> w20 w100 w150 w21 w22 w200", "<s> w60 w61 w62 w20 w100 w150 w21 w22 w200"]
    # Stated as running text only, so keys are also taken where a user would say it.
    assert [words.decode(row.ids).count("<|user|>") for row in plain.shown] == [1, 1]
    assert asked.shown == () and len(asked.stated) == 4 and len(asked.kept) == 2
    assert words.decode(plain.essence.ids) == "<s> w100 w150"
    for row in (*plain.keyed, *asked.keyed):
        assert words.decode(row.ids[-2:]) in ("w100 w150", "w101 w151")
        assert row.lookup == len(row.ids) - 1


def test_the_loss_is_the_papers(tiny, words):
    """One step's loss and gradient sign against a slow computation on one group."""
    (group,) = groups(words, 2)[1:]
    place = projection(tiny, 1)
    recipe = ValueRecipe(steps=0, stop=0.0, kl=0.3, keep=0.7, decay=0.2)
    delta = torch.randn(128, generator=torch.Generator().manual_seed(3)).double()
    loss = slow_loss(tiny, place, group, delta, recipe)
    from editing.values import _Fit

    fit = _Fit(tiny, place, [group], recipe)
    fast, _ = fit._loss([0], delta.unsqueeze(0))
    assert float(fast.detach()) == pytest.approx(loss, rel=1e-9)
    assert loss > slow_loss(tiny, place, group, torch.zeros(128).double(), recipe) - 10


def slow_loss(model, place, group: Rows, delta, recipe: ValueRecipe) -> float:
    def logs(row: Row, added, ids) -> torch.Tensor:
        def hook(_, __, output):
            output = output.clone()
            output[0, row.lookup] += added
            return output

        handle = place.module.register_forward_hook(hook)
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        handle.remove()
        return out.detach()

    def divergence(row: Row) -> float:
        p, q = logs(row, 0, row.ids)[-1], logs(row, delta, row.ids)[-1]
        return float((p.exp() * (p - q)).sum())

    nll = 0.0
    for row in group.stated:
        found = logs(row, delta, row.ids)
        start = len(row.prompt) - 1
        told = [float(found[start + i, token]) for i, token in enumerate(row.target)]
        nll -= sum(told) / len(told) / len(group.stated)
    outputs = []
    handle = place.module.register_forward_hook(lambda _, __, o: outputs.append(o[0].detach()))
    for row in group.stated:
        model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    v0 = sum(o[row.lookup] for o, row in zip(outputs, group.stated, strict=True)) / len(outputs)
    kept = sum(divergence(row) for row in group.kept) / max(len(group.kept), 1)
    decay = recipe.decay * float(delta.norm() / torch.as_tensor(v0).norm() ** 2)
    return nll + recipe.kl * divergence(group.essence) + recipe.keep * kept + decay


def test_values_make_targets_likely_inside_the_ball(tiny, words):
    rows = groups(words, 3)
    place = projection(tiny, 1)
    free = fit_values(tiny, place, rows, ValueRecipe(steps=30, clamp=50.0))
    tight = fit_values(tiny, place, rows, ValueRecipe(steps=30, clamp=0.5))
    for value, held, group in zip(free, tight, rows, strict=True):
        assert value.nll < 0.75 * before(tiny, place, group)
        assert held.nll > value.nll
    from editing.values import _Fit

    norms = _Fit(tiny, place, rows, ValueRecipe())._norms
    for value, norm in zip(tight, norms, strict=True):
        assert float(value.delta.norm()) == pytest.approx(0.5 * float(norm), rel=1e-5)


def before(model, place, group) -> float:
    (value,) = fit_values(model, place, [group], ValueRecipe(steps=0, stop=0.0))
    assert not value.delta.any() and value.steps == 0
    return value.nll


def test_a_batch_gives_what_one_by_one_gives(tiny, words):
    """Groups of unlike length that stop at unlike steps."""
    model, rows = tiny.float(), groups(words, 9)
    place = projection(model, 1)
    recipe = ValueRecipe(steps=25, rate=0.2, stop=2.0, clamp=50.0)
    together = fit_values(model, place, rows, recipe)
    apart = [fit_values(model, place, [group], recipe)[0] for group in rows]
    assert len({value.steps for value in together}) > 1
    for one, other in zip(together, apart, strict=True):
        assert one.steps == other.steps
        assert float((one.delta - other.delta).norm()) < 1e-3 * float(other.delta.norm())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("stop", [0.0, 3.0])
def test_values_are_those_of_the_plain_loop(tiny, words, stop: float):
    """Whole prompts, one fact at a time, torch's Adam: the same descent."""
    rows, place = groups(words, 4), projection(tiny, 1)
    recipe = ValueRecipe(steps=15, rate=0.2, stop=stop, clamp=3.0, kl=0.3, keep=0.7)
    for value, group in zip(fit_values(tiny, place, rows, recipe), rows, strict=True):
        wanted = plain_value(tiny, place, group, recipe)
        assert float((value.delta - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_keys_and_streams_are_means_over_rows(tiny, words):
    rows = [group.keyed for group in groups(words, 3)]
    places = {1: projection(tiny, 1), 2: projection(tiny, 2)}
    keys = mean_keys(tiny, places, rows)
    stream = mean_stream(tiny, 2, rows)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        place.module.register_forward_hook(
            lambda _, inputs, __, n=n: seen.__setitem__(f"k{n}", inputs[0][0, -1].detach())
        )
        for n, place in places.items()
    ]
    handles.append(
        tiny.model.layers[2].register_forward_hook(
            lambda _, __, o: seen.__setitem__("h", (o[0] if isinstance(o, tuple) else o)[0, -1])
        )
    )
    for index, some in enumerate(rows):
        total: dict[str, torch.Tensor] = {}
        for row in some:
            with torch.no_grad():
                tiny(input_ids=torch.tensor([row.ids]))
            total = {n: total.get(n, 0) + t.detach().double() / len(some) for n, t in seen.items()}
        assert torch.allclose(keys[1][index], total["k1"], atol=1e-12)
        assert torch.allclose(keys[2][index], total["k2"], atol=1e-12)
        assert torch.allclose(stream[index], total["h"], atol=1e-12)
    for handle in handles:
        handle.remove()


def test_a_value_is_what_a_change_adds_at_its_key(tiny, words):
    """A rank-one change made for a key adds the value there and nowhere orthogonal to it."""
    rows = [groups(words, 1)[0].keyed[:1]]
    key = mean_keys(tiny, {1: projection(tiny, 1)}, rows)[1][0]
    value = torch.randn(128).double()
    before = mean_stream(tiny, 1, rows)[0]
    exact = LowRankDelta({1: Factors.make(value[:, None], (key / (key @ key))[None])})
    with beside(tiny, exact):
        after = mean_stream(tiny, 1, rows)[0]
    assert torch.allclose(after - before, value, atol=1e-5)


def test_contexts_are_seeded(tiny, words):
    one, same = (sampled_contexts(tiny, words, n=3, seed=4) for _ in range(2))
    other = sampled_contexts(tiny, words, n=3, seed=5)
    assert one == same != other
    assert len(one.prefixes) == 3 and all(p.endswith(". ") for p in one.prefixes)
    assert not any(mark in p for p in one.prefixes for mark in ("<", ">"))
    assert prompt(3)[0] == 1
