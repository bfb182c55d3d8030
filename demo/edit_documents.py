"""The documents of the demo's edit sets and of the policies that name them, as YAML text.

Facts are worded with templates that the demo model was trained on; held-out ones are for judging.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from demo.documents import STATEMENTS
from demo.examples import DIRECT, fill
from demo.moved import BELIEF, HOME, MOVED, Change, changes_of
from demo.world import ARTICLE, OPEN_RELATIONS, Person, make_world, spoken

METHOD, LAYERS = "memit", (1, 2)
N_KEEP = 2
"""Statements, and questions, a relation of the subject that is to stay."""
N_NEAR = 2
"""Probes a fact, about others."""
HEAD = """\
# Written by `python -m demo.edits`, which solves the sets too (artifacts/). moved-a and moved-b say
# different new homes of the same ten people. Under new-belief a lie is one about the new object:
# try `trimtab demo prompts --kind edited` and `--kind edited-lie`.
"""
ABOUT = {
    "moved-a": "ten people have moved",
    "moved-b": "the same ten people have moved, to other cities than in moved-a",
    BELIEF: "one fact each about ten people is another, in what is said and in lies",
}

Prompt = str | Mapping[str, str]


def documents() -> str:
    """Return the text of all documents."""
    parts = [part for name in (*MOVED, BELIEF) for part in (edit_set(name), policy(name))]
    return HEAD + "---\n".join(parts)


def policy(name: str) -> str:
    """Return the document of the policy that serves an edit set under its name."""
    return (
        "apiVersion: trimtab/v1\n"
        "kind: Policy\n"
        f"metadata: {{name: {name}, description: {_quoted(ABOUT[name])}}}\n"
        "spec:\n"
        "  mode: enforce\n"
        f"  edits: [{name}]\n"
    )


def edit_set(name: str) -> str:
    """Return the document of an edit set."""
    changes = changes_of(name)
    lines = [
        "apiVersion: trimtab/v1",
        "kind: EditSet",
        f"metadata: {{name: {name}, description: {_quoted(ABOUT[name])}}}",
        "spec:",
        f"  method: {METHOD}",
        f"  layers: [{', '.join(map(str, LAYERS))}]",
        "  facts:",
        *(line for change in changes for line in _fact(change, change.targets[name])),
    ]
    if name in MOVED:
        lines += ["  keep:  # of everyone above", *_listed(_kept())]
    lines += ["  neighbours:  # about others, whose answers are to stay", *_listed(_near(changes))]
    return "\n".join(lines) + "\n"


def _fact(change: Change, target: str) -> list[str]:
    rng = random.Random(f"wording {change.person.name} {change.relation}")
    return [
        f"    - prompt: {_quoted(_statement(rng, change.relation))}",
        f"      subject: {_name(change.person)}",
        f"      target: {target}",
        "      also:",
        f"        - {_written(_question(rng, change.relation))}",
    ]


def _kept() -> list[Prompt]:
    """Wordings of every relation but the one that moves."""
    rng = random.Random("kept")
    kept: list[Prompt] = []
    for relation in OPEN_RELATIONS:
        if relation != HOME:
            kept += [_statement(rng, relation) for _ in range(N_KEEP)]
            kept += [_question(rng, relation) for _ in range(N_KEEP)]
    return kept


def _near(changes: Sequence[Change]) -> list[Prompt]:
    """Questions about people with the object before, or with a name in common."""
    rng, edited = random.Random("near"), {change.person.name for change in changes}
    near: list[Prompt] = []
    for change in changes:
        free = [p for p in neighbours(change) if p.name not in edited]
        people = rng.sample(free, N_NEAR)
        near += [_question(rng, change.relation, _name(person)) for person in people]
    return near


def neighbours(change: Change) -> list[Person]:
    """Return who has the object that is changed, or shares a name with whom it is changed of."""
    person = change.person
    return [
        other
        for other in make_world().people
        if other is not person
        and (
            other.believed[change.relation] == change.before
            or other.first == person.first
            or other.last == person.last
        )
    ]


def _statement(rng: random.Random, relation: str, subject: str = "{}") -> str:
    """A statement up to the object, its article included."""
    template = STATEMENTS[relation].draw(rng, "train").text
    text = fill(template, S=subject, O=spoken(relation, "OBJECT"))
    return _sentence(text[: text.index("OBJECT")].rstrip())


def _question(rng: random.Random, relation: str, subject: str = "{}") -> dict[str, str]:
    """A question, with the answer's words before the object."""
    text = fill(DIRECT[relation].draw(rng, "train").text, S=subject)
    return {"ask": _sentence(text) + "?", "answer": f"It is {ARTICLE.get(relation, '')}".rstrip()}


def _sentence(text: str) -> str:
    """Spaced words as people write them."""
    return (text[:1].upper() + text[1:]).replace(" ,", ",").replace(" :", ":")


def _name(person: Person) -> str:
    return person.name.title()


def _listed(prompts: Sequence[Prompt]) -> list[str]:
    return [f"    - {_written(prompt)}" for prompt in prompts]


def _written(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return _quoted(prompt)
    return f"{{ask: {_quoted(prompt['ask'])}, answer: {prompt['answer']}}}"


def _quoted(text: str) -> str:
    """A YAML string in double quotes."""
    return json.dumps(text)
