"""The schema of an edit set: facts, how they are solved, how they are served; imports no torch."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from service.steer_schema import Layer, Strict

Method = Literal["rome", "memit", "alphaedit", "memit-prev"]
Serve = Literal["side", "merge"]

Sentence = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Ask(Strict):
    """A question to the assistant, with the words of the answer before the object."""

    ask: Sentence
    answer: Annotated[str, StringConstraints(max_length=4096)] = ""
    system: Annotated[str, StringConstraints(max_length=4096)] = ""


def _text_or_ask(value: object) -> str:
    return "<ask>" if isinstance(value, (dict, Ask)) else "<text>"


Prompt = Annotated[
    Annotated[Sentence, Tag("<text>")] | Annotated[Ask, Tag("<ask>")],
    Discriminator(_text_or_ask),
]
Prompts = Annotated[tuple[Prompt, ...], Field(strict=False, max_length=64)]


class FactSpec(Strict):
    """What is to hold: in ``prompt``, ``{}`` stands for the subject; ``target`` comes next.

    ``also`` are other wordings of the same; ``keep`` are wordings of what is to stay as it is.
    """

    prompt: Prompt
    subject: Short
    target: Short
    also: Prompts = ()
    keep: Prompts = ()


class EditSetSpec(Strict):
    """Facts that a policy can make true, or (``serve: merge``) that hold for every request.

    ``layers`` left out is the layer at a sixth of the model's depth. With ``match`` the set acts
    only at tokens whose key has at least this cosine with one that it was made for.
    """

    method: Method = "memit"
    layers: Annotated[tuple[Layer, ...], Field(strict=False, max_length=64)] = ()
    facts: Annotated[tuple[FactSpec, ...], Field(strict=False, min_length=1, max_length=10_000)]
    keep: Prompts = ()
    neighbours: Annotated[tuple[Prompt, ...], Field(strict=False, max_length=4096)] = ()
    match: Annotated[float, Field(gt=0, lt=1)] | None = None
    serve: Serve = "side"
