"""Asks a running server through LangChain and LiteLLM, in their own environment.

Usage: python clients_side.py ASKED, a JSON file of ``url``, ``key``, ``models`` and ``questions``;
prints client → model → question → {"whole": text, "streamed": text}.
"""
# pyright: basic, reportMissingImports=false

import json
import sys
from pathlib import Path
from typing import Any

import litellm
from langchain_openai import ChatOpenAI

MAX_TOKENS = 48


def langchain(asked: dict[str, Any], model: str, question: str) -> dict[str, str]:
    chat = ChatOpenAI(
        base_url=asked["url"],
        api_key=asked["key"],
        model=model,
        temperature=0,
        max_completion_tokens=MAX_TOKENS,
        max_retries=0,
    )
    parts = [str(chunk.content) for chunk in chat.stream(question)]
    return {"whole": str(chat.invoke(question).content), "streamed": "".join(parts)}


def lite(asked: dict[str, Any], model: str, question: str) -> dict[str, str]:
    def ask(stream: bool) -> Any:
        return litellm.completion(
            model=f"openai/{model}",
            api_base=asked["url"],
            api_key=asked["key"],
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=MAX_TOKENS,
            stream=stream,
        )

    parts = [chunk.choices[0].delta.content or "" for chunk in ask(True) if chunk.choices]
    return {"whole": ask(False).choices[0].message.content, "streamed": "".join(parts)}


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    clients = {"langchain-openai": langchain, "litellm": lite}
    found = {
        name: {
            model: {question: ask(asked, model, question) for question in asked["questions"]}
            for model in asked["models"]
        }
        for name, ask in clients.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
