"""What is to be active: documents, each with the artifacts that it means, compiled.

Compiling is where a change is refused; nothing has been touched by then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forward.fingerprint import ModelFingerprint
from forward.program import EMPTY, Program
from monitors.calibration import Calibration
from service.artifacts import ArtifactLibrary
from service.catalog import check_references, merge
from service.compile import artifacts_of, compile_policy, compile_stack
from service.directory import DirectoryState
from service.documents import Document
from service.edit_compile import (
    compile_edit_set,
    contents_of,
    edits_of,
    everywhere,
    merged_of,
    refuse_contradictions,
)
from service.library import Edited, Kept, Library, Monitored, pin_key
from service.monitor_compile import compile_monitor
from service.prompting import UNREAD, Conditions, Prompting
from service.records import Key, Owner
from service.schemas import BindingSpec, EditSet, Monitor, Policy, PolicySpec
from service.store import Store
from service.watch import Watched, refuse_faults, watched_of
from service.writes import Stack


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document that is to be active.

    Attributes:
        document: The document.
        owner: Who owns it.
        pinned: The digests of its artifacts, if it was recorded before with any.
        own: What comes before anything else of its name: what lies beside the directory's
            documents (what is posted must not change what a file says), or what an edited
            document was pinned to.
    """

    document: Document
    owner: Owner
    pinned: Mapping[str, str] | None = None
    own: Library = field(default_factory=Library)


@dataclass(frozen=True, slots=True)
class Planned:
    """A document with the artifacts that it means from now on."""

    document: Document
    owner: Owner
    artifacts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Desired:
    """Everything that is to be active, compiled.

    Attributes:
        planned: Every document, in order of kind and name.
        operator: The mandatory policies as one program.
        policies: Each policy that is neither off nor mandatory, by name.
        every_mode: Every policy and the operator's stack as if all were enforced: what capacity
            must hold so that a mode can be switched.
        monitors: Every monitor by name.
        libraries: What each policy can name.
        watched: What each policy that is not off watches, alone or under the mandatory ones.
        calibrations: All that is known, whoever uses it.
        edits: Every edit set by name.
        merged: Those that are merged into the weights.
        seen: The operator's program as monitors see it: with what is merged.
    """

    planned: tuple[Planned, ...]
    operator: Program
    policies: Mapping[str, Program]
    every_mode: tuple[Program, ...]
    monitors: Mapping[str, Monitored] = field(default_factory=dict[str, Monitored])
    libraries: Mapping[str, Library] = field(default_factory=dict[str, Library])
    watched: Mapping[str, tuple[Watched, ...]] = field(
        default_factory=dict[str, tuple[Watched, ...]]
    )
    calibrations: Sequence[Kept[Calibration]] = ()
    edits: Mapping[str, Edited] = field(default_factory=dict[str, Edited])
    merged: tuple[Edited, ...] = ()
    seen: Program = EMPTY


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    spec: PolicySpec
    library: Library


def wanted_now(
    store: Store,
    library: ArtifactLibrary,
    directory: DirectoryState | None,
    posted: Sequence[Document] = (),
    edited: Sequence[Document] = (),
) -> list[Wanted]:
    """Return what is to be active: the directory's, then what is posted, then what was active.

    The directory's artifacts are added to the store first. Blocking: call off the event loop.

    Args:
        store: Where what was active is recorded.
        library: Where artifacts are.
        directory: The directory's state.
        posted: Documents applied over the API; they mean the newest artifacts.
        edited: Documents of the API with a field changed; they keep the artifacts they had.

    Raises:
        ArtifactError, StoreError: An artifact of the directory is damaged or cannot be kept.
    """
    beside = library.adopt(directory.artifacts_folder) if directory is not None else Library()
    kept = {r.key: r for r in store.all_active() if r.owner == "api"}
    from_api = [r.document() for r in kept.values()] + list(posted) + list(edited)
    merged = merge(directory.documents if directory else [], from_api)
    new: set[Key] = {document.key for document in (*posted, *edited)}
    held = {d.key: library.pinned(kept[d.key].artifacts) for d in edited if d.key in kept}
    return [
        Wanted(
            item.document,
            item.owner,
            kept[key].artifacts if item.owner == "api" and key not in new else None,
            beside if item.owner == "directory" else held.get(key, Library()),
        )
        for key, item in merged.items()
    ]


def compile_desired(
    documents: Iterable[Wanted],
    library: ArtifactLibrary,
    model: ModelFingerprint,
    prompting: Prompting = UNREAD,
) -> Desired:
    """Compile everything that is to be active.

    Raises:
        CompileError: A policy, a monitor or an edit set cannot be served, or a monitor not
            enforced.
        CatalogError: The binding names a policy that is not there.
        ArtifactNotFoundError: A recorded revision's artifact is gone.
    """
    ordered = sorted(documents, key=lambda w: w.document.key)
    newest = library.newest()
    libraries = {w.document.key: _means(w, library, newest) for w in ordered}
    monitors = _monitors(ordered, libraries, model)
    known = Library(monitors=monitors, edits=_edits(ordered, libraries, model))
    policies = {
        name: _Named(name, spec, known.over(libraries["Policy", name]))
        for name, spec in _policies(ordered)
    }
    binding = next((b for b in map(_binding, ordered) if b is not None), BindingSpec())
    check_references(binding, policies)
    merged = merged_of(known.edits.values())
    compiled = _Compiled(policies, binding, Conditions(model, prompting), merged)
    watched = compiled.watched()
    for name in watched:
        refuse_faults(watched[name])
    return Desired(
        tuple(
            Planned(item.document, item.owner, _pins(item.document, policies, known, watched))
            for item in ordered
        ),
        compiled.operator,
        compiled.clients,
        compiled.every_mode(),
        monitors,
        {name: policy.library for name, policy in policies.items()},
        watched,
        tuple(_calibrations([newest, *libraries.values()]).values()),
        known.edits,
        compiled.merged,
        compiled.seen,
    )


class _Compiled:
    """The policies, compiled as the binding puts them together."""

    def __init__(
        self,
        policies: Mapping[str, _Named],
        binding: BindingSpec,
        conditions: Conditions,
        merged: tuple[Edited, ...],
    ) -> None:
        self._policies, self._conditions, self.merged = policies, conditions, merged
        self._mandatory = [policies[name] for name in binding.mandatory]
        model, prompting = conditions.model, conditions.prompting
        libraries = [policy.library for policy in self._mandatory]
        weights = contents_of(merged)
        self.operator = compile_stack(
            self._mandatory, libraries, model, False, prompting, merged=weights
        )
        self.seen = everywhere(self.operator, weights)
        self.clients = {
            name: compile_policy(p, p.library, model, False, prompting, self.seen)
            for name, p in policies.items()
            if p.spec.mode != "off" and name not in binding.mandatory
        }
        self._refuse_outvoting(binding)

    def _refuse_outvoting(self, binding: BindingSpec) -> None:
        """Refuse a policy whose edits contradict those that every request is under."""
        held = [*self.merged, *(e for policy in self._mandatory for e in _acting(policy))]
        for name, policy in self._policies.items():
            own = [] if name in binding.mandatory else _acting(policy)
            if held:
                refuse_contradictions(name, [*held, *own])

    def watched(self) -> dict[str, tuple[Watched, ...]]:
        return {
            name: watched_of([policy], policy.library, self._conditions, self._stack(policy))
            for name, policy in self._policies.items()
            if policy.spec.mode != "off"
        }

    def every_mode(self) -> tuple[Program, ...]:
        model, libraries = self._conditions.model, [p.library for p in self._mandatory]
        return (
            *(compile_policy(p, p.library, model, True) for p in self._policies.values()),
            compile_stack(self._mandatory, libraries, model, True),
        )

    def _stack(self, policy: _Named) -> Stack:
        client = self.clients.get(policy.name, EMPTY)
        return Stack(self.seen, client, policy.spec.strength.default)


def _means(wanted: Wanted, library: ArtifactLibrary, newest: Library) -> Library:
    """Return what the names in a document mean."""
    if wanted.pinned is None:
        return wanted.own.over(newest)
    pinned = library.pinned(wanted.pinned)
    # A calibration is found by what it is bound to, so a newer one changes nothing by its name.
    everything = pinned.over(newest).calibrations
    return replace(pinned, calibrations=everything)


def _calibrations(libraries: Iterable[Library]) -> dict[str, Kept[Calibration]]:
    return {kept.digest: kept for library in libraries for kept in library.calibrations}


def _monitors(
    ordered: Iterable[Wanted], libraries: Mapping[Key, Library], model: ModelFingerprint
) -> dict[str, Monitored]:
    return {
        d.name: compile_monitor(d.name, d.model.spec, libraries[d.key], model)
        for d in (item.document for item in ordered)
        if isinstance(d.model, Monitor)
    }


def _edits(
    ordered: Iterable[Wanted], libraries: Mapping[Key, Library], model: ModelFingerprint
) -> dict[str, Edited]:
    return {
        d.name: compile_edit_set(d.name, d.model.spec, libraries[d.key], model)
        for d in (item.document for item in ordered)
        if isinstance(d.model, EditSet)
    }


def _acting(policy: _Named) -> list[Edited]:
    """Return the edit sets of a policy that is enforced."""
    if policy.spec.mode != "enforce":
        return []
    return edits_of(policy.name, policy.spec.edits, policy.library)


def _policies(ordered: Iterable[Wanted]) -> list[tuple[str, PolicySpec]]:
    models = [(item.document.name, item.document.model) for item in ordered]
    return [(name, model.spec) for name, model in models if isinstance(model, Policy)]


def _binding(item: Wanted) -> BindingSpec | None:
    model = item.document.model
    return model.spec if model.kind == "Binding" else None


def _pins(
    document: Document,
    policies: Mapping[str, _Named],
    known: Library,
    watched: Mapping[str, tuple[Watched, ...]],
) -> Mapping[str, str]:
    """Return the digests that a document means from now on, by key."""
    if isinstance(document.model, Monitor):
        return known.monitors[document.name].artifacts
    if isinstance(document.model, EditSet):
        return known.edits[document.name].artifacts
    if not isinstance(document.model, Policy):
        return {}
    policy = policies[document.name]
    digests = {id(kept.content): kept.digest for kept in policy.library.calibrations}
    calibrated = {
        pin_key("calibration", one.monitor): digests[id(one.calibration)]
        for one in watched.get(document.name, ())
        if one.calibration is not None
    }
    return artifacts_of(policy.spec, policy.library) | calibrated
