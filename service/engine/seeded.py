"""Seeded requests on CPUs: a generator that can take back its last draw.

vLLM takes back what an unfinished prompt chunk drew by moving the generator's offset. CPU
generators have none, so a client's ``seed`` with a prompt of several chunks would end the engine.
"""

from typing import Any

import torch


class RewindableGenerator(torch.Generator):
    """A CPU generator whose offset moves back by the one step that vLLM asks for."""

    before_draw: torch.Tensor

    @classmethod
    def of(cls, generator: torch.Generator) -> "RewindableGenerator":
        """Return a generator in the same state."""
        made = cls(device="cpu")
        made.set_state(generator.get_state())
        made.before_draw = generator.get_state()
        return made

    def get_offset(self) -> int:
        """Return an offset that vLLM subtracts one step from."""
        return 0

    def set_offset(self, offset: int) -> "RewindableGenerator":
        """Go back to the state before the last step."""
        self.set_state(self.before_draw)
        return self


class SeededRunner:
    """Mixed into the CPU runner: its requests' generators are rewindable."""

    def _update_states(self, scheduler_output: Any) -> Any:
        updated = super()._update_states(scheduler_output)  # type: ignore[misc]
        runner: Any = self
        generators: dict[int, torch.Generator] = runner.input_batch.generators
        for index, generator in generators.items():
            if not isinstance(generator, RewindableGenerator):
                rewindable = RewindableGenerator.of(generator)
                generators[index] = rewindable
                runner.requests[runner.input_batch.req_ids[index]].generator = rewindable
        return updated

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        runner: Any = self
        for generator in runner.input_batch.generators.values():
            generator.before_draw = generator.get_state()
        return super()._sample(*args, **kwargs)  # type: ignore[misc]
