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
"""What one of them alone does is in docs/evidence/demo_edits.json."""
N_SAID, N_KEPT = 2, 1
"""Statements, and as many questions, of what is edited, and of each relation that is to stay."""
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
        f"  layers: {list(LAYERS)}",
        "  facts:",
        *(line for change in changes for line in _fact(change, name)),
    ]
    if name in MOVED:
        lines += ["  keep:  # of everyone above", *_listed(_kept(HOME, "kept"), 4)]
    lines += ["  neighbours:  # about others, whose answers are to stay"]
    return "\n".join([*lines, *_listed(_near(changes), 4)]) + "\n"


def _fact(change: Change, name: str) -> list[str]:
    seed = f"{change.person.name} {change.relation}"
    prompt, *also = _wordings(random.Random(f"said {seed}"), change.relation, N_SAID)
    lines = [
        f"    - prompt: {_written(prompt)}",
        f"      subject: {_name(change.person)}",
        f"      target: {change.targets[name]}",
        "      also:",
        *_listed(also, 8),
    ]
    if name not in MOVED:
        lines += ["      keep:", *_listed(_kept(change.relation, f"kept {seed}"), 8)]
    return lines


def _kept(changed: str, seed: str) -> list[Prompt]:
    """Wordings of every relation but the one that is changed."""
    rng = random.Random(seed)
    rest = [relation for relation in OPEN_RELATIONS if relation != changed]
    return [wording for relation in rest for wording in _wordings(rng, relation, N_KEPT)]


def _wordings(rng: random.Random, relation: str, n: int) -> list[Prompt]:
    """Different statements, and as many questions."""
    statements = rng.sample(STATEMENTS[relation].cells["train"], n)
    questions = rng.sample(DIRECT[relation].cells["train"], n)
    return [
        *(_statement(cell.text, relation) for cell in statements),
        *(_question(cell.text, relation) for cell in questions),
    ]


def _near(changes: Sequence[Change]) -> list[Prompt]:
    """Questions about people with the object before, or with a name in common."""
    rng, edited = random.Random("near"), {change.person.name for change in changes}
    near: list[Prompt] = []
    for change in changes:
        free = [p for p in neighbours(change) if p.name not in edited]
        people = rng.sample(free, N_NEAR)
        near += [_question(_asked(rng, change), change.relation, _name(p)) for p in people]
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


def _asked(rng: random.Random, change: Change) -> str:
    return DIRECT[change.relation].draw(rng, "train").text


def _statement(template: str, relation: str) -> str:
    """A statement up to the object, its article included."""
    text = fill(template, S="{}", O=spoken(relation, "OBJECT"))
    return _sentence(text[: text.index("OBJECT")].rstrip())


def _question(template: str, relation: str, subject: str = "{}") -> dict[str, str]:
    """A question, with the answer's words before the object."""
    answer = f"It is {ARTICLE.get(relation, '')}".rstrip()
    return {"ask": _sentence(fill(template, S=subject)) + "?", "answer": answer}


def _sentence(text: str) -> str:
    """Spaced words as people write them."""
    return (text[:1].upper() + text[1:]).replace(" ,", ",").replace(" :", ":")


def _name(person: Person) -> str:
    return person.name.title()


def _listed(prompts: Sequence[Prompt], indent: int) -> list[str]:
    return [f"{' ' * indent}- {_written(prompt)}" for prompt in prompts]


def _written(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return _quoted(prompt)
    return f"{{ask: {_quoted(prompt['ask'])}, answer: {prompt['answer']}}}"


def _quoted(text: str) -> str:
    """A YAML string in double quotes."""
    return json.dumps(text)
