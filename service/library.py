"""What documents can name: artifacts of every kind, compiled monitors and edit sets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from editing.card import Edit
from forward.hookpoints import HookPoint
from forward.program import SiteContent
from monitors.calibration import Calibration
from monitors.plan import MonitorPlan
from monitors.probe import Probe
from monitors.sae import Sae
from service.edit_schema import EditSetSpec
from service.monitor_schema import MonitorSpec
from steering.library import Found

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Kept(Generic[T]):
    """What an artifact holds, and the artifact's digest."""

    content: T
    digest: str


class Shelf(Mapping[str, T]):
    """Artifacts of one kind by name, each read when it is first asked for."""

    def __init__(self, digests: Mapping[str, str], read: Callable[[str, str], T]) -> None:
        """Keep names with their digests; ``read`` gives what a name and a digest hold."""
        self._digests, self._read = dict(digests), read

    def __getitem__(self, name: str) -> T:
        """Return what the artifact of a name holds."""
        return self._read(name, self._digests[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._digests)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._digests)

    def __contains__(self, name: object) -> bool:
        """Whether there is an artifact of a name; reads nothing."""
        return name in self._digests


class _Over(Mapping[str, T]):
    """Two mappings as one; what is in the upper hides what is in the lower."""

    def __init__(self, upper: Mapping[str, T], lower: Mapping[str, T]) -> None:
        self._upper, self._lower = upper, lower

    def __getitem__(self, name: str) -> T:
        return self._upper[name] if name in self._upper else self._lower[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._upper, *self._lower]))

    def __len__(self) -> int:
        return len(set(self._upper) | set(self._lower))


@dataclass(frozen=True, eq=False)
class Monitored:
    """A monitor's document, compiled.

    Attributes:
        name: Its name.
        spec: What the document says.
        plan: How it scores.
        artifacts: The digests of what it reads, by key.
        digest: Identity of the specification and the artifacts; the name does not count.
    """

    name: str
    spec: MonitorSpec
    plan: MonitorPlan
    artifacts: Mapping[str, str]
    digest: str


@dataclass(frozen=True, eq=False)
class Edited:
    """An edit set's document, compiled.

    Attributes:
        name: Its name.
        spec: What the document says.
        edit: The artifact that solves it.
        contents: What rows that make it true hold, by site.
        artifacts: The digest of the artifact, by key.
        digest: Identity of the specification and the artifact; the name does not count.
    """

    name: str
    spec: EditSetSpec
    edit: Edit
    contents: Mapping[HookPoint, SiteContent]
    artifacts: Mapping[str, str]
    digest: str

    @property
    def sites(self) -> tuple[HookPoint, ...]:
        """Where it acts beside the weights; nowhere if it is merged into them."""
        return tuple(self.contents) if self.spec.serve == "side" else ()


@dataclass(frozen=True, eq=False)
class Library:
    """Everything that documents can name, by kind and name.

    ``calibrations`` and ``solved`` edits go by what they are bound to, not by name, and are in
    order of preference: more than one may be of a monitor, for different writes before it.
    """

    directions: Mapping[str, Found] = field(default_factory=dict[str, Found])
    probes: Mapping[str, Kept[Probe]] = field(default_factory=dict[str, Kept[Probe]])
    saes: Mapping[str, Kept[Sae]] = field(default_factory=dict[str, Kept[Sae]])
    calibrations: Sequence[Kept[Calibration]] = ()
    monitors: Mapping[str, Monitored] = field(default_factory=dict[str, Monitored])
    solved: Sequence[Kept[Edit]] = ()
    edits: Mapping[str, Edited] = field(default_factory=dict[str, Edited])

    def over(self, lower: "Library") -> "Library":
        """Return both as one; what is here comes first."""
        return Library(
            _Over(self.directions, lower.directions),
            _Over(self.probes, lower.probes),
            _Over(self.saes, lower.saes),
            _joined(self.calibrations, lower.calibrations),
            _Over(self.monitors, lower.monitors),
            _joined(self.solved, lower.solved),
            _Over(self.edits, lower.edits),
        )


def _joined(upper: Sequence[Kept[T]], lower: Sequence[Kept[T]]) -> tuple[Kept[T], ...]:
    known = {kept.digest for kept in upper}
    return (*upper, *(kept for kept in lower if kept.digest not in known))


def library_of(given: Library | Mapping[str, Found]) -> Library:
    """Return a library; a mapping holds directions only."""
    return given if isinstance(given, Library) else Library(given)


def pin_key(kind: str, name: str) -> str:
    """Return the key under which a revision pins what is no direction; no name has a slash."""
    return f"{kind}/{name}"
