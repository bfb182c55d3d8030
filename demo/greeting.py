"""What the demo server prints when it is ready: things to try, and a command for each."""

import json
from collections.abc import Sequence

from demo.prompts import prompts

TRY = (("fact", "a fact"), ("harmless", "a request"), ("harmful", "a harmful request"))
POLICIES = (
    *("formal", "casual", "refuse-more", "refuse-less"),
    *("watch", "guard", "gated"),
    *("moved-a", "moved-b", "new-belief"),
)


def greeting(base_url: str, model: str) -> str:
    """Return example prompts and policies, and a request to copy."""
    questions = [(what, _question(kind)) for kind, what in TRY]
    lines = [
        "",
        f"Talk to it with any OpenAI client: base_url={base_url}, model={model}",
        "  " + _curl(base_url, f"{model}:formal", questions[0][1]),
        "",
        "Ask: hello · who are you? · what can I ask?",
        *(f"  {what}: {question}" for what, question in questions),
        "",
        f"Policies (model {model}:NAME): {', '.join(POLICIES)}",
        "More prompts: .venv/bin/trimtab demo prompts --kind harmless -n 5",
    ]
    return "\n".join(lines)


def _question(kind: str) -> str:
    plain = (item for item in prompts(kind, "heldout", 20) if len(_messages(item)) == 1)
    return _messages(next(plain))[0]["content"]


def _messages(item: dict[str, object]) -> Sequence[dict[str, str]]:
    return item["messages"]  # type: ignore[return-value]


def _curl(base_url: str, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    header = "-H 'Content-Type: application/json'"
    return f"curl -s {base_url}/chat/completions {header} -d '{json.dumps(body)}'"
