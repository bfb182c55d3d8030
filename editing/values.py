"""Values: what an edited projection should add at the subject's last token.

For each group a vector δ, added to the projection's output at the subject, is fitted by Adam so
that the targets become likely in every context, while the distribution at the subject alone (and
behind prompts that are to stay) hardly moves:

    L(δ) = mean over contexts of -log P(target) / tokens
           + kl · KL(P₀ ‖ P_δ) at the subject alone
           + keep · mean over kept prompts of KL(P₀ ‖ P_δ) at their last token
           + decay · ‖δ‖ / ‖v₀‖²,        ‖δ‖ ≤ clamp · ‖v₀‖

(ROME, arXiv 2202.05262, equation 4 and the authors' settings; v₀ is the projection's mean output
over the stated contexts. The term ``keep`` is added here.) Groups share forward passes and nothing
else: each has its own Adam state and stops by itself, so a batch gives what one by one gives.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from editing.batches import IGNORED, chunks, device_of, projecting
from editing.contexts import Rows
from editing.projections import Projection
from editing.spans import Row
from editing.tails import Tails, encode_tails, run_tails, tail, tails_of
from forward.digest import values_digest

PASS_TOKENS = 2048
"""Tokens of a pass while values are fitted, those before the subjects not counted."""
WORTH_REPACKING = 0.75
"""Groups that are done are dropped from the passes when no more than this share is left."""
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True)
class ValueRecipe:
    """How values are fitted.

    Attributes:
        steps: Adam steps at most.
        rate: Adam's learning rate.
        decay: Weight of ‖δ‖ / ‖v₀‖².
        kl: Weight of the divergence at the subject alone.
        keep: Weight of the divergence behind prompts that are to stay.
        clamp: Largest ‖δ‖ / ‖v₀‖.
        stop: A group whose loss is below this is done.
        at_once: Groups that share a forward pass.
    """

    steps: int = 25
    rate: float = 0.5
    decay: float = 0.5
    kl: float = 0.0625
    keep: float = 1.0
    clamp: float = 4.0
    stop: float = 0.05
    at_once: int = 64

    @property
    def digest(self) -> str:
        """Identity of what changes the values; sharing passes does not."""
        fields = asdict(self)
        del fields["at_once"]
        return values_digest(*(fields[name] for name in sorted(fields)))


@dataclass(frozen=True, eq=False)
class Value:
    """What was found for one group.

    Attributes:
        delta: What to add, (d_out,) float32 on the CPU.
        loss: The loss at ``delta``.
        nll: Of it, the mean negative log-likelihood a target token.
        steps: Adam steps taken.
    """

    delta: Tensor
    loss: float
    nll: float
    steps: int


def fit_values(
    model: nn.Module,
    place: Projection,
    groups: Sequence[Rows],
    recipe: ValueRecipe,
    on_progress: Callable[[int], None] = lambda n: None,
) -> list[Value]:
    """Return the value of each group, in order.

    Args:
        model: The model that the values are for; unchanged.
        place: The projection whose output they add to.
        groups: The rows of each group.
        recipe: How to fit.
        on_progress: Called with the number of groups just finished.
    """
    values: list[Value] = []
    for start in range(0, len(groups), recipe.at_once):
        part = groups[start : start + recipe.at_once]
        values += _Fit(model, place, part, recipe).run()
        on_progress(len(part))
    return values


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one pass.

    Attributes:
        tails: From their subjects on; what is added cannot move anything before.
        owner: Whose they are, (rows,).
        share: Of their group's loss, (rows,).
        stated: Indices of those with targets.
        still: Indices of those that are to stay.
        before: log P₀ of the latter, (still, vocabulary).
    """

    tails: Tails
    owner: Tensor
    share: Tensor
    stated: Tensor
    still: Tensor
    before: Tensor


class _Fit:
    """The descent of several groups at once."""

    def __init__(
        self, model: nn.Module, place: Projection, groups: Sequence[Rows], recipe: ValueRecipe
    ) -> None:
        self._model, self._place, self._groups, self._recipe = model, place, groups, recipe
        device = device_of(model)
        width = place.matrix.shape[0]
        dtype = torch.promote_types(place.parameter.dtype, torch.float32)
        self._delta = torch.zeros(len(groups), width, device=device, dtype=dtype)
        self._first, self._second = torch.zeros_like(self._delta), torch.zeros_like(self._delta)
        self._steps = torch.zeros(len(groups), dtype=torch.int64)
        self._norms = self._norms_before()
        self._known: dict[tuple[int, ...], tuple[_Part, ...]] = {}

    def run(self) -> list[Value]:
        """Descend until every group is done."""
        with frozen(self._model):
            return self._descend()

    def _descend(self) -> list[Value]:
        n = len(self._groups)
        losses, nlls, done = torch.zeros(n), torch.zeros(n), torch.zeros(n, dtype=torch.bool)
        running = list(range(n))
        for step in range(self._recipe.steps + 1):
            delta = self._delta[running].requires_grad_()
            loss, nll = self._loss(running, delta)
            fresh = [i for i, g in enumerate(running) if not done[g]]
            groups = [running[i] for i in fresh]
            losses[groups], nlls[groups] = (x.detach().float().cpu()[fresh] for x in (loss, nll))
            done[groups] = losses[groups] < self._recipe.stop
            going = [i for i in fresh if not done[running[i]]]
            if step == self._recipe.steps or not going:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), delta)
            self._adam([running[i] for i in going], gradient[going])
            if len(going) <= WORTH_REPACKING * len(running):
                running = [running[i] for i in going]
        deltas = self._delta.detach().float().cpu()
        figures = zip(deltas, losses.tolist(), nlls.tolist(), self._steps.tolist(), strict=True)
        return [Value(delta, loss, nll, steps) for delta, loss, nll, steps in figures]

    def _adam(self, active: list[int], gradient: Tensor) -> None:
        """Take one step and project into the ball."""
        self._steps[active] += 1
        n = int(self._steps[active[0]])
        first = self._first[active].lerp(gradient, 1 - _BETA1)
        second = self._second[active].lerp(gradient.square(), 1 - _BETA2)
        self._first[active], self._second[active] = first, second
        scale = (second / (1 - _BETA2**n)).sqrt() + _EPSILON
        moved = self._delta[active] - self._recipe.rate * (first / (1 - _BETA1**n)) / scale
        limit = self._recipe.clamp * self._norms[active]
        norm = moved.norm(dim=-1)
        self._delta[active] = moved * (limit / norm.clamp_min(1e-30)).clamp_max(1).unsqueeze(-1)

    def _loss(self, active: list[int], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the likelihood term of each group in the passes, (active,)."""
        nll = delta.new_zeros(len(active))
        still = self._recipe.decay * _norm(delta) / self._norms[active].square()
        for part in self._parts(active):
            with self._adding(part, delta):
                logs = run_tails(self._model, part.tails).log_softmax(-1)
            nll = _add(nll, part, part.stated, _nll(logs, part))
            still = _add(still, part, part.still, _divergence(logs, part))
        return nll + still, nll

    @contextmanager
    def _adding(self, part: _Part, delta: Tensor) -> Generator[None]:
        """While open, the projection's output has each row's delta at its subject."""
        rows = torch.arange(len(part.owner), device=delta.device)

        def hook(_: object, __: object, output: Tensor) -> Tensor:
            added = delta[part.owner].to(output.dtype)
            return output.index_put((rows, part.tails.batch.lookup), added, accumulate=True)

        handle = self._place.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _parts(self, active: list[int]) -> tuple[_Part, ...]:
        """Return the parts of the groups in the passes; made anew when some are dropped."""
        key = tuple(active)
        if key not in self._known:
            self._known = {key: tuple(self._split([self._groups[g] for g in active]))}
        return self._known[key]

    def _split(self, groups: Sequence[Rows]) -> Generator[_Part]:
        """Yield the rows of groups in passes: of tails, and then heads, of similar length."""
        recipe = self._recipe
        flat: list[tuple[Row, int, float]] = []
        for g, group in enumerate(groups):
            terms = ((1.0, group.stated), (recipe.kl, (group.essence,)), (recipe.keep, group.kept))
            flat += [(row, g, weight / len(some)) for weight, some in terms for row in some]
        flat = sorted((one for one in flat if one[2]), key=lambda one: one[0].lookup)
        for chunk in chunks([tail(row) for row, _, _ in flat], PASS_TOKENS):
            yield self._part([flat[i] for i in chunk])

    def _part(self, rows: Sequence[tuple[Row, int, float]]) -> _Part:
        device = self._delta.device
        owner = torch.tensor([g for _, g, _ in rows], device=device)
        share = torch.tensor([part for *_, part in rows], device=device, dtype=self._delta.dtype)
        has_target = torch.tensor([row.n_target > 0 for row, _, _ in rows], device=device)
        stated, still = (kind.nonzero().squeeze(-1) for kind in (has_target, ~has_target))
        tails = tails_of(self._model, [row for row, _, _ in rows])
        with torch.no_grad():
            before = run_tails(self._model, tails)[still, -1].log_softmax(-1)
        return _Part(tails, owner, share, stated, still, before)

    @torch.no_grad()
    def _norms_before(self) -> Tensor:
        """Return ‖v₀‖ of each group, (groups,)."""
        total = torch.zeros_like(self._delta)
        for part in self._split(self._groups):
            with projecting([self._place]) as seen:
                encode_tails(self._model, part.tails)
            output = seen[self._place.layer][1][part.stated, 0]
            total = _add(total, part, part.stated, output.to(total.dtype))
        return total.norm(dim=-1)


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """While open, no parameter asks for a gradient: a pass remembers only what a delta needs."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_()


def _nll(logs: Tensor, part: _Part) -> Tensor:
    """Return the mean negative log-likelihood of the target tokens of stated rows."""
    labels = part.tails.batch.labels[part.stated]
    real = labels != IGNORED
    taken = logs[part.stated].gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return -(taken * real).sum(-1) / real.sum(-1)


def _divergence(logs: Tensor, part: _Part) -> Tensor:
    """Return KL(P₀ ‖ P_δ) at the last token of rows that are to stay."""
    return (part.before.exp() * (part.before - logs[part.still, -1])).sum(-1)


def _add(total: Tensor, part: _Part, which: Tensor, values: Tensor) -> Tensor:
    """Return totals (groups, ...) with the shares of some rows' values (which, ...) added."""
    share = part.share[which].to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
    return total.index_add(0, part.owner[which], values * share)


def _norm(delta: Tensor) -> Tensor:
    """Return row norms whose gradient is 0, not undefined, at 0."""
    return (delta.square().sum(-1) + 1e-24).sqrt()
