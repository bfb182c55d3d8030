"""The methods: which metric each solves in, and how a set's residuals are spread over layers.

A method is a function of the same parts. With several layers, each takes an equal share of what is
still missing behind the last one, keys taken with the lower layers already changed (MEMIT, arXiv
2210.07229, algorithm 1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from editing.contexts import Rows
from editing.delta import EMPTY, Factors, LowRankDelta, beside
from editing.errors import EditError
from editing.facts import METHODS, MethodName
from editing.keys import mean_keys, mean_stream
from editing.moments import SecondMoment
from editing.projections import projections
from editing.solve import Metric, alphaedit, free_directions, memit, preserving, rome
from forward.digest import values_digest
from forward.families import family_of


class MethodError(EditError):
    """A method that cannot do what it is asked."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The numbers of the closed forms.

    Attributes:
        moment_ridge: Added to C, in units of its mean diagonal.
        weight: λ of MEMIT: what moving ordinary keys costs.
        ridge: ρ of ``memit-prev``, in units of C's mean diagonal.
        free: Share of C's trace that the directions may carry in which AlphaEdit writes.
        free_ridge: ρ of AlphaEdit, in units of C's mean diagonal.
    """

    moment_ridge: float = 1e-4
    weight: float = 10.0
    ridge: float = 1.0
    free: float = 0.02
    free_ridge: float = 0.01

    @property
    def digest(self) -> str:
        """Identity of the numbers."""
        fields = asdict(self)
        return values_digest(*(fields[name] for name in sorted(fields)))


Previous = Mapping[int, Tensor]
"""Keys of earlier edits by layer, (d_in, n), that the history-aware methods are to preserve."""


class Solver:
    """One method on one model's second moments; factors each matrix once."""

    def __init__(
        self, method: MethodName, moments: Mapping[int, SecondMoment], weights: Weights
    ) -> None:
        """Keep what is solved with.

        Raises:
            MethodError: There is no such method.
        """
        if method not in METHODS:
            raise MethodError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
        self.method, self._moments, self._weights = method, moments, weights
        self._metrics: dict[int, Metric] = {}
        self._free: dict[int, Tensor] = {}

    def solve(self, layer: int, keys: Tensor, previous: Tensor | None = None) -> Tensor:
        """Return V (n, d_in) for keys (d_in, n) at a layer.

        Raises:
            SolveError: The system has no usable solution.
        """
        if self.method == "alphaedit":
            moment = self._moments[layer].ridged(0.0)
            if layer not in self._free:
                self._free[layer] = free_directions(moment, self._weights.free)
            ridge = self._weights.free_ridge * float(moment.diagonal().mean())
            return alphaedit(keys, self._free[layer], ridge, previous)
        if self.method == "memit-prev" and previous is not None:
            return memit(keys, self._metric(layer, previous))
        if layer not in self._metrics:
            self._metrics[layer] = self._metric(layer, None)
        return (rome if self.method == "rome" else memit)(keys, self._metrics[layer])

    def _metric(self, layer: int, previous: Tensor | None) -> Metric:
        moment, weights = self._moments[layer].ridged(self._weights.moment_ridge), self._weights
        if self.method == "rome":
            return Metric(moment)
        ridge = weights.ridge if self.method == "memit-prev" else 0.0
        return Metric(preserving(moment, weights.weight, previous, ridge))


def check_layers(model: nn.Module, method: MethodName, layers: Sequence[int]) -> None:
    """Refuse layers that a method or a model cannot use.

    Raises:
        ProjectionError: A layer is not there or not editable.
        MethodError: There is none, or several where one is possible.
    """
    if not layers:
        raise MethodError("no layers: name at least one, for example the layer at a sixth of depth")
    projections(model, layers)
    family = family_of(model.config)
    if len(layers) > 1 and method == "rome":
        raise MethodError(f"rome edits one layer, not {list(layers)}; memit spreads over several")
    if len(layers) > 1 and family.normalises_mlp:
        raise MethodError(
            f"{family.name} normalises what an edited projection adds, so shares of several layers "
            f"do not sum up; give one layer, not {list(layers)}"
        )


def spread(
    model: nn.Module,
    solver: Solver,
    layers: Sequence[int],
    rows: Sequence[Rows],
    deltas: Tensor,
    first_keys: Tensor | None = None,
    previous: Previous | None = None,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> LowRankDelta:
    """Return the change that gives each group its value.

    Args:
        model: The unedited model (or, in a sequence, the model edited so far).
        solver: The method.
        layers: The edited layers, ascending; values belong to the last.
        rows: The rows of each group.
        deltas: What is to be added behind the last layer, (groups, d_model).
        first_keys: The keys at the first layer, (groups, d_in), if they are known.
        previous: Keys of earlier edits by layer.
        on_layer: Called with each layer that is solved.

    Raises:
        SolveError: A layer has no usable solution.
    """
    places = projections(model, layers)
    keyed = [group.keyed for group in rows]
    wanted = deltas.double()
    goal = mean_stream(model, layers[-1], keyed) + wanted if len(layers) > 1 else wanted
    change = EMPTY
    for number, layer in enumerate(layers):
        with beside(model, change):
            known = first_keys if number == 0 else None
            keys = (
                mean_keys(model, {layer: places[layer]}, keyed)[layer] if known is None else known
            )
            now = mean_stream(model, layers[-1], keyed) if len(layers) > 1 else 0.0
        residual = (goal - now) / (len(layers) - number)
        v = solver.solve(layer, keys.T, None if previous is None else previous.get(layer))
        change = change + LowRankDelta({layer: Factors.make(residual.T, v, keys)})
        on_layer(layer)
    return change


def stacked_keys(delta: LowRankDelta) -> dict[int, Tensor]:
    """Return the keys that a change was made for, by layer, (d_in, n) float64."""
    keys = {layer: factors.keys for layer, factors in delta.layers.items()}
    return {layer: found.double().T for layer, found in keys.items() if found is not None}


def joined_keys(first: Previous, second: Previous) -> dict[int, Tensor]:
    """Return the keys of both."""
    joined = dict(first)
    for layer, keys in second.items():
        joined[layer] = torch.cat([joined[layer], keys], 1) if layer in joined else keys
    return joined
