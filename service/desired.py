"""What is to be active: documents, each with the artifacts that it means, compiled.

Compiling is where a change is refused; nothing has been touched by then.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forward.fingerprint import ModelFingerprint
from forward.program import Program
from monitors.calibration import Calibration
from service.artifacts import ArtifactLibrary
from service.bindings import Stacked, check_bindings
from service.bound import Binder, Bound, Known, watched_anywhere
from service.compile import artifacts_of
from service.directory import DirectoryState
from service.documents import Document
from service.edit_compile import compile_edit_set, merged_of
from service.library import Edited, Kept, Library, Monitored, pin_key
from service.monitor_compile import compile_monitor
from service.prompting import UNREAD, Conditions, Prompting
from service.records import Key, Owner, Revision
from service.schemas import Binding, EditSet, Monitor, Policy, PolicySpec
from service.store import Store
from service.watch import Watched


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
        bound: What the policies are under each list of mandatory ones that a request can have; the
            default binding's first.
        every_mode: Every policy and every stack as if all were enforced: what capacity must hold so
            that a mode can be switched.
        monitors: Every monitor by name.
        libraries: What each policy can name.
        calibrations: All that is known, whoever uses it.
        edits: Every edit set by name.
        merged: Those that are merged into the weights.
    """

    planned: tuple[Planned, ...]
    bound: Mapping[Stacked, Bound]
    every_mode: tuple[Program, ...]
    monitors: Mapping[str, Monitored] = field(default_factory=dict[str, Monitored])
    libraries: Mapping[str, Library] = field(default_factory=dict[str, Library])
    calibrations: Sequence[Kept[Calibration]] = ()
    edits: Mapping[str, Edited] = field(default_factory=dict[str, Edited])
    merged: tuple[Edited, ...] = ()

    @property
    def policies(self) -> Mapping[str, Program]:
        """What clients of the default binding can choose."""
        return next(iter(self.bound.values())).policies

    @property
    def watched(self) -> Mapping[str, tuple[Watched, ...]]:
        """What each policy that is not off watches: under the default binding if it is in it."""
        return watched_anywhere(self.bound)


def wanted_now(
    store: Store,
    library: ArtifactLibrary,
    directory: DirectoryState | None,
    posted: Sequence[Document] = (),
    edited: Sequence[Document] = (),
    restored: Sequence[Revision] = (),
) -> list[Wanted]:
    """Return what is to be active: the directory's, then what is posted, then what was active.

    The directory's artifacts are added to the store first. Blocking: call off the event loop.

    Args:
        store: Where what was active is recorded.
        library: Where artifacts are.
        directory: The directory's state, where that is to be taken over.
        posted: Documents applied over the API; they mean the newest artifacts.
        edited: Documents of the API with a field changed; they keep the artifacts they had.
        restored: Revisions that are to be active again, as documents of the API; they mean the
            artifacts that they meant.

    Raises:
        ArtifactError, StoreError: An artifact of the directory is damaged or cannot be kept.
    """
    beside = library.adopt(directory.artifacts_folder) if directory is not None else Library()
    # A directory that is given says all that it owns; else what was recorded of it stays.
    owned = ("api",) if directory is not None else ("api", "directory")
    kept = {r.key: r for r in store.all_active() if r.owner in owned}
    kept |= {r.key: replace(r, owner="api") for r in restored}
    found = {key: _recorded(revision) for key, revision in kept.items()}
    found |= {d.key: Wanted(d, "api", own=_held(d, kept, library)) for d in edited}
    found |= {d.key: Wanted(d, "api") for d in posted}
    if directory is not None:
        found |= {d.key: Wanted(d, "directory", own=beside) for d in directory.documents}
    return list(found.values())


def wanted_of(revisions: Iterable[Revision]) -> list[Wanted]:
    """Return what is to be active where another server has made these revisions so."""
    return [_recorded(revision) for revision in revisions]


def _recorded(revision: Revision) -> Wanted:
    return Wanted(revision.document(), revision.owner, revision.artifacts)


def _held(document: Document, kept: Mapping[Key, Revision], library: ArtifactLibrary) -> Library:
    """Return what an edited document goes on to mean."""
    known = kept.get(document.key)
    return library.pinned(known.artifacts) if known is not None else Library()


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
        BindingError: The bindings do not hold together, or with the policies.
        ArtifactNotFoundError: A recorded revision's artifact is gone.
    """
    ordered = sorted(documents, key=lambda w: w.document.key)
    newest = library.newest()
    libraries = {w.document.key: _means(w, library, newest) for w in ordered}
    monitors = _monitors(ordered, libraries, model)
    known = Library(monitors=monitors, edits=_edits(ordered, libraries, model))
    policies = {
        name: Known(name, spec, known.over(libraries["Policy", name]))
        for name, spec in _policies(ordered)
    }
    specs = {name: policy.spec for name, policy in policies.items()}
    bindings = {d.name: d.model.spec for d in _documents(ordered) if isinstance(d.model, Binding)}
    merged = merged_of(known.edits.values())
    binder = Binder(policies, bindings, Conditions(model, prompting), merged)
    bound = binder.bound(check_bindings(bindings, specs))
    watched = watched_anywhere(bound)
    return Desired(
        tuple(
            Planned(item.document, item.owner, _pins(item.document, policies, known, watched))
            for item in ordered
        ),
        bound,
        binder.every_mode(bound),
        monitors,
        {name: policy.library for name, policy in policies.items()},
        tuple(_calibrations([newest, *libraries.values()]).values()),
        known.edits,
        merged,
    )


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


def _documents(ordered: Iterable[Wanted]) -> Iterator[Document]:
    return (item.document for item in ordered)


def _policies(ordered: Iterable[Wanted]) -> list[tuple[str, PolicySpec]]:
    models = [(document.name, document.model) for document in _documents(ordered)]
    return [(name, model.spec) for name, model in models if isinstance(model, Policy)]


def _pins(
    document: Document,
    policies: Mapping[str, Known],
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
