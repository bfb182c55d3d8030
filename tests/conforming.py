"""Plain vLLM and Trimtab in turn on one model with the same flags, asked the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai

from tests.openai_answers import observe
from tests.openai_suite import NO_POLICY, Ask, Fields
from tests.served import PLAIN_VLLM, TRIMTAB, Served

KEY = "a-client-key"


@dataclass(frozen=True)
class Subject:
    """What is served: a checkpoint, Trimtab's policies for it, and vLLM's options for both."""

    checkpoint: Path
    policies: Path
    options: tuple[str, ...]

    def plain(self, folder: Path) -> Served:
        """Start plain vLLM."""
        return Served(folder, [str(self.checkpoint), *self._options], PLAIN_VLLM)

    def trimtab(self, folder: Path) -> Served:
        """Start Trimtab."""
        policies = ["--policies", str(self.policies)]
        return Served(folder, [str(self.checkpoint), *policies, *self._options], TRIMTAB)

    @property
    def _options(self) -> tuple[str, ...]:
        return (*self.options, "--api-key", KEY)


def client_of(server: Served, **more: object) -> openai.OpenAI:
    """Return a stock client of a server."""
    url = f"{server.url}/v1"
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120, **more)


def answers(server: Served, asked: Sequence[Ask]) -> dict[str, Fields]:
    """Return what comes back for each ask, under no policy where there are policies."""
    with client_of(server, default_headers=NO_POLICY) as client:
        return {ask.name: observe(client, ask) for ask in asked}
