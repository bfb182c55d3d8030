"""The same sites on a Hugging Face model: the offline caller of the arithmetic in ``forward.site``.

Used to evaluate policies offline and as the oracle that the engine is compared with. Nothing of
it stays in the model between calls.
"""

import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from forward.allocation import Allocator
from forward.edit_site import EditSite
from forward.families import decoder_layers, family_of, mlp_projection, model_shape
from forward.gates import UNHEARD, GatePatch
from forward.hookpoints import HookPoint
from forward.hooks import HookHandle, Transform, hook_residual
from forward.program import EMPTY, Program, Watch
from forward.rows import UNSTEERED, RowSpan, token_rows
from forward.site import Capacity, Site
from forward.sites import AnySite, make_sites, n_columns
from forward.step import N_SOURCES, Step
from forward.tables import apply_patch

DEFAULT_CAPACITY = Capacity(rows=64, reads=64, writes=64)
DEFAULT_GATES = 16


class SteeringError(ValueError):
    """A request that cannot be steered as asked."""


@dataclass(frozen=True, eq=False)
class Steering:
    """A program and the strength that multiplies it."""

    program: Program
    strength: float = 1.0


class _Requests:
    """The row spans of a batch and its open latches; all requests carry the same spans."""

    def __init__(
        self,
        spans: Sequence[RowSpan],
        prompt_lengths: Sequence[int],
        device: torch.device,
        new_step: Callable[[int], Step],
    ) -> None:
        self._prompt_lengths = torch.tensor(prompt_lengths, device=device)
        packed = [span.packed() for span in spans]
        n = len(prompt_lengths)
        self._rows = torch.tensor([[rows] * n for rows, _ in packed], device=device)
        self._starts = torch.tensor([[starts] * n for _, starts in packed], device=device)
        self._strengths = torch.tensor([span.strength for span in spans], device=device)
        self._new_step = new_step
        self._last: Tensor | None = None

    def step(self, positions: Tensor, is_real: Tensor) -> Step:
        """Return the step of tokens at ``positions`` (requests, tokens); padding has row 0."""
        n, width = positions.shape
        step = self._new_step(n * width)
        request_of = torch.arange(n, device=positions.device).repeat_interleave(width)
        flat, real = positions.reshape(-1), is_real.reshape(-1).bool()
        rows = token_rows(flat, request_of, self._prompt_lengths, self._rows, self._starts)
        step.rows[:, :-1] = rows * real
        step.strengths[:, :-1] = self._strengths.unsqueeze(-1)
        gates = step.gates
        gates.first[:-1] = request_of * width
        gates.place[:-1] = torch.where(real, flat - self._prompt_lengths[request_of], UNHEARD)
        if self._last is not None:
            gates.before[:-1] = self._last[:-1, 1:].view(n, -1, gates.size)[request_of, -1]
        self._last = gates.open
        return step


class SteeredModel:
    """A Hugging Face causal language model with sites.

    Programs are placed for the duration of a call, so capacity bounds one call's programs.
    """

    def __init__(
        self,
        model: nn.Module,
        points: Iterable[HookPoint],
        capacity: Capacity = DEFAULT_CAPACITY,
        gates: int = DEFAULT_GATES,
    ) -> None:
        """Make a site at each hook point.

        Args:
            model: A causal language model of a supported family; it is not changed.
            points: Where programs may write.
            capacity: Table sizes of every site.
            gates: Gates that programs may use at once.

        Raises:
            UnsupportedModelError: The family is not supported.
            HookPointError: A hook point lies outside the model.
        """
        self.model = model
        shape = model_shape(model.config)
        points = [HookPoint.parse_site(str(point), shape.n_layers) for point in points]
        self._device = next(model.parameters()).device
        capacities = dict.fromkeys(points, capacity)
        self._sites = make_sites(shape.d_model, capacities, self._device, shape.d_mlp)
        self._allocator = Allocator(shape.d_model, capacities, gates, shape.d_mlp)
        self._sizes = (n_columns(capacities), gates)
        self._gates: list[GatePatch] = []
        self._columns: dict[tuple[HookPoint, str], int] = {}

    @torch.inference_mode()
    def logits(
        self,
        ids: Sequence[int],
        prompt_length: int,
        steerings: Sequence[Steering | None] = (),
    ) -> Tensor:
        """Return the logits after every token, (tokens, vocabulary) float32.

        One forward pass over prompt and generated tokens, without a KV cache.

        Args:
            ids: The original prompt and what was generated after it.
            prompt_length: Length of the original prompt.
            steerings: The operator's and the client's; None or absent steers nothing.

        Raises:
            SteeringError: More than two steerings, a strength that is not finite, no tokens.
            CapacityError: The programs need a site or a table entry that is not there.
        """
        with self._placed(steerings) as spans:
            return self._whole(ids, prompt_length, spans)[0]

    @torch.inference_mode()
    def scores(
        self,
        ids: Sequence[int],
        prompt_length: int,
        watched: Sequence[Watch],
        steerings: Sequence[Steering | None] = (),
    ) -> Tensor:
        """Return the scores of watched reads at every token, (tokens, watched) float32.

        Args:
            ids: The original prompt and what was generated after it.
            prompt_length: Length of the original prompt.
            watched: Which reads; they see the stream as the steerings leave it before their site.
            steerings: The operator's and the client's.

        Raises:
            SteeringError: As for ``logits``.
            CapacityError: As for ``logits``.
        """
        watcher = Steering(replace(EMPTY, watched=tuple(watched)))
        with self._placed(steerings) as spans, self._held(watcher):
            columns = [self._columns[watch.key] for watch in watched]
            return self._whole(ids, prompt_length, spans)[1].scores[:-1, columns]

    def _whole(
        self, ids: Sequence[int], prompt_length: int, spans: Sequence[RowSpan]
    ) -> tuple[Tensor, Step]:
        """Run prompt and answer in one pass; return logits (tokens, vocabulary) and the step."""
        batch = torch.tensor([list(ids)], device=self._device)
        positions = torch.arange(len(ids), device=self._device).unsqueeze(0)
        with self._installed() as set_step:
            requests = _Requests(spans, [prompt_length], self._device, self._new_step)
            step = requests.step(positions, torch.ones_like(positions))
            set_step(step)
            output = self.model(input_ids=batch, position_ids=positions, use_cache=False)
        return output.logits[0].float(), step

    def generate(
        self,
        ids: Sequence[int],
        steerings: Sequence[Steering | None] = (),
        max_new_tokens: int = 64,
        eos: Collection[int] = (),
    ) -> list[int]:
        """Return the greedy continuation; it ends with the ``eos`` token that stopped it, if any.

        Raises:
            SteeringError: As for ``logits``.
            CapacityError: As for ``logits``.
        """
        return self.generate_batch([ids], steerings, max_new_tokens, eos)[0]

    @torch.inference_mode()
    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        steerings: Sequence[Steering | None] = (),
        max_new_tokens: int = 64,
        eos: Collection[int] = (),
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Return the greedy continuation of each prompt, in order, all under the same steerings.

        Uses the KV cache; prompts of similar length go together, padded on the left. Rows follow
        from unpadded absolute positions, so padding changes nothing but rounding.

        Args:
            prompts: Token ids of each prompt.
            steerings: The operator's and the client's.
            max_new_tokens: Length limit of a continuation.
            eos: Tokens that end a continuation.
            batch_size: Prompts a forward pass.
            on_progress: Called with the number of prompts just finished.

        Raises:
            SteeringError: As for ``logits``.
            CapacityError: As for ``logits``.
        """
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, list[int]] = {}
        with self._placed(steerings) as spans, self._installed() as set_step:
            for start in range(0, len(order), batch_size):
                chunk = order[start : start + batch_size]
                batch = [prompts[index] for index in chunk]
                found = self._greedy(batch, spans, set_step, max_new_tokens, eos)
                answers.update(zip(chunk, found, strict=True))
                if on_progress is not None:
                    on_progress(len(chunk))
        return [answers[index] for index in range(len(prompts))]

    def _greedy(
        self,
        prompts: Sequence[Sequence[int]],
        spans: Sequence[RowSpan],
        set_step: Callable[[Step], None],
        max_new_tokens: int,
        eos: Collection[int],
    ) -> list[list[int]]:
        ids, mask = _pad_left(prompts, self._device)
        lengths = [len(prompt) for prompt in prompts]
        requests = _Requests(spans, lengths, self._device, self._new_step)
        answers: list[list[int]] = [[] for _ in prompts]
        running = set(range(len(prompts)))
        cache = None
        while running and max_new_tokens > 0:
            width = ids.shape[1]
            positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -width:]
            set_step(requests.step(positions, mask[:, -width:]))
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            chosen = output.logits[:, -1].float().argmax(-1, keepdim=True)
            ids, mask = chosen, torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
            for index in sorted(running):
                answers[index].append(int(chosen[index]))
                if answers[index][-1] in eos or len(answers[index]) == max_new_tokens:
                    running.remove(index)
        return answers

    @contextmanager
    def _placed(self, steerings: Sequence[Steering | None]) -> Generator[list[RowSpan]]:
        """Yield one row span a source, with the programs in the tables meanwhile."""
        _check(steerings)
        with ExitStack() as held:
            padded = (*steerings, *[None] * (N_SOURCES - len(steerings)))
            yield [held.enter_context(self._held(s)) if s else UNSTEERED for s in padded]

    @contextmanager
    def _held(self, steering: Steering) -> Generator[RowSpan]:
        """Yield the row span of one steering, with its program in the tables meanwhile."""
        placement = self._allocator.place(steering.program)
        for point, patch in placement.patches.items():
            apply_patch(self._sites[point], patch)
        gates = [placement.gates] if placement.gates else []
        self._gates += gates
        self._columns.update(placement.columns)
        try:
            yield RowSpan(placement.rows, steering.program.starts, steering.strength)
        finally:
            self._gates = [patch for patch in self._gates if patch not in gates]
            self._allocator.release(steering.program)

    def _new_step(self, n_tokens: int) -> Step:
        """Return an empty step of so many tokens, with the gates that are placed."""
        step = Step(n_tokens, *self._sizes, self._device)
        for patch in self._gates:
            step.gates.apply(patch)
        return step

    @contextmanager
    def _installed(self) -> Generator[Callable[[Step], None]]:
        """Hook the sites in; yield the function that sets the rows of the next forward pass."""
        steps: list[Step] = []

        def set_step(step: Step) -> None:
            steps[:] = [step]

        with install_sites(self.model, self._sites, lambda: steps[0]):
            yield set_step


def install_sites(
    model: nn.Module, sites: Mapping[HookPoint, AnySite], step: Callable[[], Step]
) -> HookHandle:
    """Hook sites into a model; ``step`` gives the step of the current pass."""

    def at(site: Site) -> Transform:
        def transform(residual: Tensor) -> Tensor:
            tokens = residual.reshape(-1, residual.shape[-1])
            return residual + site.run(tokens, step()).view_as(residual)

        return transform

    steered = {point: at(site) for point, site in sites.items() if isinstance(site, Site)}
    edited = {p.layer: site for p, site in sites.items() if isinstance(site, EditSite)}
    handle = hook_residual(model, steered)
    layers, family = decoder_layers(model, family_of(model.config)), family_of(model.config)
    for layer, site in edited.items():
        projection = mlp_projection(layers[layer], family)
        handle.own(projection.register_forward_hook(_editing(site, step)))
    return handle


def _editing(site: EditSite, step: Callable[[], Step]) -> Callable[..., Tensor]:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens = inputs[0].reshape(-1, inputs[0].shape[-1])
        return output + site.run(tokens, step()).view_as(output)

    return add


def _check(steerings: Sequence[Steering | None]) -> None:
    if len(steerings) > N_SOURCES:
        raise SteeringError(
            f"{len(steerings)} steerings; a token carries {N_SOURCES}: the operator's and the "
            "client's. Compile several policies into one program instead"
        )
    for steering in steerings:
        if steering is not None and not math.isfinite(steering.strength):
            raise SteeringError(f"strength {steering.strength} is not a finite number")


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (prompts, longest) and the mask of real tokens."""
    if not all(prompts):
        raise SteeringError("a prompt has no tokens")
    longest = max(len(prompt) for prompt in prompts)
    padding = [[0] * (longest - len(prompt)) for prompt in prompts]
    ids = [[*pad, *prompt] for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[*pad, *[1] * len(prompt)] for pad, prompt in zip(padding, prompts, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
