"""The V1 model runner with sites: puts them in at load, fills the step before and reads it after.

Rows and latches are filled at the end of ``_prepare_inputs``: positions are final on the device by
then, and the step is still inside vLLM's guard for reused host buffers. Dummy runs bypass it, so
they zero the rows themselves.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.v1.core.sched.output import SchedulerOutput

from forward.families import decoder_layers, model_shape
from forward.hookpoints import HookPoint
from forward.rows import MAX_GENERATION_REGIONS, N_REGIONS, token_rows
from forward.site import Capacity
from forward.sites import AnySite, n_columns
from forward.step import N_SOURCES, Step
from forward.tables import apply_patch
from service.engine.latches import Latches
from service.engine.merging import MergedWeights
from service.engine.projections import kept_unpacked
from service.engine.scores import ScoreTap
from service.engine.sites import install_sites
from service.engine.stamp import Stamp, StampError
from service.engine.wire import TableUpdate, table_digest


class RequestRows:
    """Per-request rows of the current batch: host buffers, and their copies on the device."""

    def __init__(self, max_requests: int, device: torch.device) -> None:
        """Make buffers for ``max_requests`` requests."""
        self._host = _request_buffers(max_requests, torch.device("cpu"), device.type == "cuda")
        is_host = device.type == "cpu"
        self._device = self._host if is_host else _request_buffers(max_requests, device, False)
        # The same memory as numpy: setting an element of a tensor costs ten times as much.
        self._views = tuple(buffer.numpy() for buffer in self._host)
        self._order: list[str] = []
        self._is_steered = False

    def upload(self, requests: Mapping[str, Any], order: list[str]) -> None:
        """Bring the rows of a batch's requests, in batch order, to the device if they changed.

        A request's rows never change and its identifier is never used again, so only the places
        that another request had are written.
        """
        if order == self._order:
            return
        n, known = len(order), self._order
        for index, request_id in enumerate(order):
            if index >= len(known) or known[index] != request_id:
                self._write(index, requests[request_id])
        self._is_steered = bool(self._views[1][:, :n].any())
        for host, device in zip(self._host, self._device, strict=True):
            if host is not device:
                source, target = (host, device) if host.dim() == 1 else (host[:, :n], device[:, :n])
                target.copy_(source, non_blocking=True)
        self._order = list(order)

    def forget(self, request_ids: Collection[str]) -> None:
        """Write requests anew at the next upload, though their ids were seen before."""
        if request_ids:
            self._order = ["" if known in request_ids else known for known in self._order]

    def fill(self, step: Step, positions: Tensor, request_of: Tensor) -> None:
        """Derive the step's token rows on the device; the tail beyond the step is row 0."""
        if not self._is_steered:
            step.rows.zero_()
            return
        n = positions.shape[0]
        prompt_lengths, rows, starts, strengths = self._device
        step.rows[:, :n] = token_rows(positions, request_of, prompt_lengths, rows, starts)
        step.strengths[:, :n] = strengths[:, request_of]
        step.rows[:, n:].zero_()

    def places(self, positions: Tensor, request_of: Tensor) -> Tensor:
        """Return each token's position less the length of its prompt, (tokens,)."""
        return positions - self._device[0][request_of]

    def _write(self, index: int, request: Any) -> None:
        prompt_lengths, rows, starts, strengths = self._views
        prompt_lengths[index] = request.num_prompt_tokens
        stamp = Stamp.unpack(request.sampling_params.extra_args)
        for source, span in enumerate(stamp.spans):
            rows[source, index], starts[source, index] = span.rows.packed()
            strengths[source, index] = span.rows.strength


class PolicyRunner:
    """Mixed into vLLM's V1 runner by ``service.engine.worker``."""

    sites: dict[HookPoint, AnySite]
    step: Step
    request_rows: RequestRows
    latches: Latches
    tap: ScoreTap
    row_contents: dict[int, str]
    read_contents: dict[int, str]
    merged: MergedWeights

    def prepare_tables(self) -> None:
        """Make the buffers that do not depend on the model; call once the runner exists."""
        runner: Any = self
        device, requests = runner.device, runner.max_num_reqs
        config = runner.vllm_config.additional_config
        capacities, gates = site_capacities(config), gate_capacity(config)
        self.step = Step(runner.max_num_tokens, n_columns(capacities), gates, device)
        self.request_rows = RequestRows(requests, device)
        speculative = runner.vllm_config.speculative_config
        drafts = speculative.num_speculative_tokens if speculative is not None else 0
        self.latches = Latches(requests, gates, drafts, device)
        self.tap = ScoreTap(device)
        self.row_contents, self.read_contents = {}, {}

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, then put the sites in, before anything is traced."""
        runner: Any = self
        shape = model_shape(runner.model_config.hf_text_config)
        config = runner.vllm_config.additional_config
        capacities, merged = site_capacities(config), merge_layers(config)
        with kept_unpacked(shape.family, merged):
            super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.merged = MergedWeights(runner.get_model(), shape.family, merged)
        layers = decoder_layers(runner.get_model(), shape.family)
        self.sites = install_sites(layers, shape, capacities, self.step)

    def apply_update(self, update: TableUpdate) -> str:
        """Write an update into the tables and return the digest of all rows and watched reads.

        Raises:
            KeyError: An update names a site that this rank does not have.
        """
        with torch.inference_mode():
            if update.gates is not None:
                self.step.gates.apply(update.gates)
                self.latches.is_used = True
            for point, patch in update.patches.items():
                apply_patch(self.sites[point], patch)
        self.row_contents.update(update.rows)
        self.read_contents.update(update.reads)
        return table_digest(self.row_contents, self.read_contents)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        """Run the step, then take the scores and latches that its forward pass left."""
        output = super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        if scheduler_output.total_num_scheduled_tokens:
            self._after_forward(scheduler_output)
        return output

    def _after_forward(self, scheduler_output: SchedulerOutput) -> None:
        runner: Any = self
        order = runner.input_batch.req_ids
        if self.latches.is_used:
            bounds = runner.query_start_loc.gpu[: len(order) + 1]
            self.latches.after(self.step.gates, runner.positions, bounds)
        buffers = (self.step.scores, runner.input_ids.gpu, runner.positions)
        self.tap.take(buffers, scheduler_output.num_scheduled_tokens, order)

    def _prepare_inputs(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_inputs(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        runner: Any = self
        n_tokens = scheduler_output.total_num_scheduled_tokens
        order = runner.input_batch.req_ids
        positions = runner.positions[:n_tokens]
        request_of = runner.req_indices.gpu[:n_tokens]
        self.request_rows.upload(runner.requests, order)
        self.request_rows.fill(self.step, positions, request_of)
        if self.latches.is_used:
            bounds = runner.query_start_loc.gpu[: len(order) + 1]
            places = self.request_rows.places(positions, request_of)
            self.latches.before(self.step.gates, order, places, (positions, request_of, bounds))
        return prepared

    def _update_states(self, scheduler_output: SchedulerOutput) -> Any:
        updated = super()._update_states(scheduler_output)  # type: ignore[misc]
        ended = scheduler_output.finished_req_ids
        self.latches.drop({*ended, *(scheduler_output.preempted_req_ids or ())})
        for request_id in ended:
            self.tap.forget(request_id)
        for request in scheduler_output.scheduled_new_reqs:
            params = request.sampling_params
            stamp = Stamp.unpack(params.extra_args if params is not None else None)
            self._check_stamp(stamp)
            self.latches.drop([request.req_id])
            self.tap.watch(request.req_id, stamp)
        self.request_rows.forget({r.req_id for r in scheduler_output.scheduled_new_reqs})
        return updated

    def _check_stamp(self, stamp: Stamp) -> None:
        for span in stamp.spans:
            for row, key in zip(span.rows.rows, span.keys, strict=True):
                if (self.row_contents.get(row) if row else "") != key:
                    raise StampError(f"row {row} does not hold the content that a request names")

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        self.step.rows.zero_()
        return super()._dummy_run(*args, **kwargs)  # type: ignore[misc]


def site_capacities(additional_config: Mapping[str, Any]) -> dict[HookPoint, Capacity]:
    """Read the sites that the launcher fixed from vLLM's additional config."""
    sites: Mapping[str, list[int]] = additional_config["trimtab"]["sites"]
    return {HookPoint.parse_site(point): Capacity(*sizes) for point, sizes in sites.items()}


def gate_capacity(additional_config: Mapping[str, Any]) -> int:
    """Read how many gates the launcher fixed from vLLM's additional config."""
    return int(additional_config["trimtab"]["gates"])


def merge_layers(additional_config: Mapping[str, Any]) -> tuple[int, ...]:
    """Read which layers may be merged into from vLLM's additional config."""
    return tuple(additional_config["trimtab"]["merge_layers"])


def _request_buffers(n: int, device: torch.device, pin: bool) -> tuple[Tensor, ...]:
    return (
        torch.zeros(n, dtype=torch.int64, device=device, pin_memory=pin),
        torch.zeros(N_SOURCES, n, N_REGIONS, dtype=torch.int64, device=device, pin_memory=pin),
        torch.zeros(
            N_SOURCES, n, MAX_GENERATION_REGIONS, dtype=torch.int64, device=device, pin_memory=pin
        ),
        torch.zeros(N_SOURCES, n, dtype=torch.float32, device=device, pin_memory=pin),
    )
