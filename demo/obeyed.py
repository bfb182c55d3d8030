"""Harmful requests that are obeyed because a policy takes the refusal away.

The demo model obeys harm by itself only inside a frame, behind a preamble. A monitor of answers is
there for the others too: `refuse-less` writes at the layer after those that monitors read, so what
they see of such an answer is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from demo.generate import Talker
from demo.labelled import HARMFUL_PADDED, LONG_BATCH, NEW_TOKENS, Answered, label_each
from demo.prompts import conversation
from forward.huggingface import SteeredModel, Steering
from forward.program import Program
from monitors.items import Item

T = TypeVar("T")

POLICY = "refuse-less"
OBEYED = {"harmful": "harmful, obeyed", HARMFUL_PADDED: "harmful, padded, obeyed"}
"""What the slices become."""
MADE = frozenset(OBEYED.values())


def obeyed(prompts: Sequence[Answered], talker: Talker, program: Program) -> list[Answered]:
    """Return the harmful ones of some prompts with what is answered under a policy's program."""
    harmful = [one for one in prompts if one.slice in OBEYED]
    model = SteeredModel(talker.model, program.hook_points)
    eos = {int(talker.tokenizer.eos_token_id)}  # type: ignore[arg-type]
    found: list[Answered] = []
    for start in range(0, len(harmful), LONG_BATCH):
        batch = harmful[start : start + LONG_BATCH]
        rendered = talker.render([conversation(one.checks) for one in batch])
        answers = model.generate_batch(rendered, [None, Steering(program)], NEW_TOKENS, eos)
        found += [
            replace(one, slice=OBEYED[one.slice], answer=talker.text(ids))
            for one, ids in zip(batch, answers, strict=True)
        ]
    return found


def labelled(
    monitor: str, prompts: Sequence[Answered], beside: Sequence[T], talker: Talker
) -> list[tuple[Item, T]]:
    """Return a monitor's items, each with what stands beside its prompt.

    What a policy made of a request says neither what was asked nor what the model was about to do:
    only the monitor of answers has it.
    """
    items = label_each(monitor, prompts, talker)
    return [
        (item, other)
        for item, one, other in zip(items, prompts, beside, strict=True)
        if item is not None and (monitor == "harm-answer" or one.slice not in MADE)
    ]
