"""Made-up records in the published formats, in the words of the tiny models and a question mark.

Some prompts share two cache blocks with others, so that a server is asked through its prefix cache.
"""

import json
from pathlib import Path
from typing import Any

LONG = " ".join(f"w{100 + i}" for i in range(70))
NEW, OLD = "w31 w32", "w33"


def counterfact(says: str = NEW, said: str = OLD) -> list[dict[str, Any]]:
    """Two records; ``says`` is the new object of both and ``said`` the old one."""

    def record(number: int, subject: str) -> dict[str, Any]:
        objects = {"target_new": {"str": says}, "target_true": {"str": said}}
        return {
            "case_id": number,
            "requested_rewrite": {"prompt": "w20 {} w21", "subject": subject, **objects},
            "paraphrase_prompts": [f"{LONG} w22 {subject}", f"w23 {subject} w24"],
            "neighborhood_prompts": [f"{LONG} w22 w70 w71", "w20 w72 w73 w21", "w20 w74 w21"],
            "generation_prompts": [f"{subject} w25", f"{LONG} w22 {subject}"],
        }

    return [record(0, "w60 w61"), record(1, "w62 w63")]


def zsre(says: str = NEW) -> list[dict[str, Any]]:
    """One record with its new answer, ``says``, and one without."""
    shared = {"loc": "nq question: w40 w41 w42 ?", "loc_ans": "w43 w44"}
    return [
        {
            "subject": "w60 w61",
            "src": "w20 w60 w61 w21 ?",
            "rephrase": f"{LONG} w22 w60 w61 ?",
            "alt": says,
            "answers": ["w33"],
        }
        | shared,
        {
            "subject": "w62 w63",
            "src": "w20 w62 w63 w21 ?",
            "rephrase": "w26 w62 w63 ?",
            "answers": ["w35 w36"],
        }
        | shared,
    ]


def mquake(*answers: str) -> list[dict[str, Any]]:
    """One record, its questions answered by any of ``answers``."""
    asked = {
        "prompt": "w20 {} w21",
        "subject": "w60 w61",
        "target_new": {"str": NEW},
        "target_true": {"str": OLD},
        "question": "w27 w60 w61 ?",
    }
    return [
        {
            "case_id": 3,
            "requested_rewrite": [asked],
            "questions": ["w28 w60 w61 ?", f"{LONG} w22 w60 w61"],
            "new_answer": answers[0],
            "new_answer_alias": list(answers[1:]),
        }
    ]


def own() -> list[dict[str, Any]]:
    """One record of our own format, some of its prompts questions to an assistant."""
    return [
        {
            "prompt": {"ask": "w20 {} w21", "answer": "w29"},
            "subject": "w60 w61",
            "target": NEW,
            "before": OLD,
            "paraphrases": [{"ask": "w23 w60 w61", "system": "w37"}],
            "others": [{"prompt": "w60 w61 w38", "target": "w39"}],
            "asked": [{"ask": "w20 w60 w61"}],
        }
    ]


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    """Write records as the papers' files have them."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    return path
