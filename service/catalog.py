"""The catalog: an immutable snapshot of everything that is active; imports no torch.

A change makes a new snapshot, so a request that took one keeps it to its end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from service.binding_schema import BindingSpec
from service.bindings import BindingRevision, Bindings, Stacked, canary_digest, check_bindings
from service.documents import Document
from service.edit_schema import EditSetSpec
from service.errors import ServiceError
from service.monitor_schema import MonitorSpec
from service.records import Key, Owner, Revision
from service.schemas import EditSet, Kind, Monitor, Policy, PolicySpec


class CatalogError(ServiceError):
    """A change that the catalog refuses; ``status`` and ``code`` are those of the answer."""

    def __init__(self, message: str, status: int, code: str) -> None:
        """Keep the message and how an HTTP answer says it."""
        super().__init__(message)
        self.message, self.status, self.code = message, status, code


class OwnershipError(CatalogError):
    """A document that the directory owns can be changed only there."""

    def __init__(self, key: Key, file: str | None = None) -> None:
        """Name the document, and its file if that is known."""
        kind, name = key
        where = f"change {file}" if file else "change its file there"
        message = (
            f"{kind} '{name}' is owned by the policy directory: {where}, or apply this one under "
            "another name"
        )
        super().__init__(message, 409, "owned_by_directory")


@dataclass(frozen=True, slots=True)
class PolicyRevision:
    """An active revision of a policy; ``artifacts`` pins the names in it to digests."""

    name: str
    revision: int
    digest: str
    spec: PolicySpec = field(hash=False)
    owner: Owner
    artifacts: Mapping[str, str] = field(default_factory=dict, hash=False)
    description: str = ""

    @property
    def label(self) -> str:
        """Name and revision, such as ``formal@3``."""
        return f"{self.name}@{self.revision}"

    @property
    def applied(self) -> bool:
        """Whether it changes answers: in shadow and off it does not."""
        return self.spec.mode == "enforce"


@dataclass(frozen=True, slots=True)
class MonitorRevision:
    """An active revision of a monitor; ``artifacts`` pins the names in it to digests."""

    name: str
    revision: int
    digest: str
    spec: MonitorSpec = field(hash=False)
    owner: Owner
    artifacts: Mapping[str, str] = field(default_factory=dict, hash=False)
    description: str = ""


@dataclass(frozen=True, slots=True)
class EditSetRevision:
    """An active revision of an edit set; ``artifacts`` pins it to what solves it."""

    name: str
    revision: int
    digest: str
    spec: EditSetSpec = field(hash=False)
    owner: Owner
    artifacts: Mapping[str, str] = field(default_factory=dict, hash=False)
    description: str = ""


Named = Mapping[str, PolicyRevision] | Mapping[str, MonitorRevision] | Mapping[str, EditSetRevision]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Policies, monitors, edit sets and bindings by name.

    ``generation`` only grows; ``digest`` is that of the documents with the artifacts they mean.
    """

    policies: Mapping[str, PolicyRevision] = field(default_factory=lambda: MappingProxyType({}))
    bindings: Bindings = field(default_factory=Bindings)
    generation: int = 0
    digest: str = ""
    monitors: Mapping[str, MonitorRevision] = field(default_factory=lambda: MappingProxyType({}))
    edits: Mapping[str, EditSetRevision] = field(default_factory=lambda: MappingProxyType({}))

    def owner(self, key: Key) -> Owner | None:
        """Return who owns a document, or None if there is none of that name."""
        kind, name = key
        if kind == "Binding":
            bound = self.bindings.by_name.get(name)
            return bound.owner if bound is not None else None
        found = self.of(kind).get(name)
        return found.owner if found is not None else None

    def of(self, kind: Kind) -> Named:
        """Return the active documents of a kind that has names."""
        if kind == "Policy":
            return self.policies
        return self.monitors if kind == "Monitor" else self.edits

    @property
    def binding(self) -> BindingRevision:
        """The default binding."""
        return self.bindings.default

    def users_of(self, monitor: str) -> tuple[PolicyRevision, ...]:
        """Return the policies that name a monitor, in whatever mode."""
        return tuple(p for p in self.policies.values() if monitor in p.spec.monitors)

    def edited_by(self, edits: str) -> tuple[PolicyRevision, ...]:
        """Return the policies that name an edit set, in whatever mode."""
        return tuple(p for p in self.policies.values() if edits in p.spec.edits)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new snapshot changed: documents new or with other content, and those removed."""

    changed: tuple[PolicyRevision, ...] = ()
    removed: tuple[PolicyRevision, ...] = ()
    bindings: tuple[BindingRevision, ...] = ()
    removed_bindings: tuple[str, ...] = ()
    changed_monitors: tuple[MonitorRevision, ...] = ()
    removed_monitors: tuple[MonitorRevision, ...] = ()
    changed_edits: tuple[EditSetRevision, ...] = ()
    removed_edits: tuple[EditSetRevision, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Owned:
    """A document and who owns it."""

    document: Document
    owner: Owner


def merge(directory: Iterable[Document], api: Iterable[Document]) -> dict[Key, Owned]:
    """Return the documents that are to be active, by kind and name.

    A name in both is the directory's: a file that an operator puts there takes over what was
    posted before, whose revisions stay in the store.
    """
    merged = {document.key: Owned(document, "api") for document in api}
    return merged | {document.key: Owned(document, "directory") for document in directory}


def check_post(catalog: Catalog, key: Key, file: str | None = None) -> None:
    """Refuse to apply, edit or remove over the API what the directory owns.

    Args:
        catalog: What is active.
        key: The document.
        file: Where the directory has it, if it has it.

    Raises:
        OwnershipError: The directory owns the document.
    """
    if catalog.owner(key) == "directory":
        raise OwnershipError(key, file)


def running_canary(catalog: Catalog, name: str) -> str:
    """Return the digest of the canary that a binding runs.

    Raises:
        CatalogError: With status 409, none runs.
    """
    binding = catalog.bindings.by_name[name]
    if binding.canary is None:
        ended = f": it was ended ({binding.halted})" if binding.halted else ""
        message = f"binding '{name}' runs no canary{ended}"
        raise CatalogError(message, 409, "no_canary")
    return canary_digest(name, binding.canary)


def with_halt(catalog: Catalog, name: str, reason: str, generation: int) -> Catalog:
    """Return the snapshot in which the canary of a binding is ended."""
    halted = replace(catalog.bindings.by_name[name], halted=reason)
    by_name = MappingProxyType({**catalog.bindings.by_name, name: halted})
    return replace(catalog, bindings=Bindings(by_name), generation=generation)


def advance(
    catalog: Catalog,
    revisions: Iterable[Revision],
    halts: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Catalog, Changes]:
    """Return the snapshot in which exactly these revisions are active, and what it changes.

    Without a change it is the old snapshot. The old one is never touched.

    Args:
        catalog: The old snapshot.
        revisions: What is active.
        halts: Why canaries were ended, by their digests.

    Raises:
        BindingError: The bindings do not hold together, or with the policies.
    """
    policies: dict[str, PolicyRevision] = {}
    monitors: dict[str, MonitorRevision] = {}
    edits: dict[str, EditSetRevision] = {}
    bindings: dict[str, tuple[Revision, BindingSpec]] = {}
    for revision in revisions:
        model = revision.document().model
        if isinstance(model, Policy):
            policies[revision.name] = PolicyRevision(*_parts(revision, model))
        elif isinstance(model, Monitor):
            monitors[revision.name] = MonitorRevision(*_parts(revision, model))
        elif isinstance(model, EditSet):
            edits[revision.name] = EditSetRevision(*_parts(revision, model))
        else:
            bindings[revision.name] = (revision, model.spec)
    specs = {name: policy.spec for name, policy in policies.items()}
    bound = check_bindings({name: spec for name, (_, spec) in bindings.items()}, specs)
    advanced = replace(
        catalog,
        policies=MappingProxyType(dict(sorted(policies.items()))),
        monitors=MappingProxyType(dict(sorted(monitors.items()))),
        edits=MappingProxyType(dict(sorted(edits.items()))),
        bindings=_bindings(bindings, bound, halts),
        generation=catalog.generation + 1,
    )
    changes = _changes(catalog, advanced)
    return (advanced if changes else catalog), changes


def _bindings(
    found: Mapping[str, tuple[Revision, BindingSpec]],
    mandatory: Mapping[str, Stacked],
    halts: Mapping[str, str],
) -> Bindings:
    by_name = {
        name: BindingRevision(
            revision.revision,
            spec,
            revision.owner,
            name,
            mandatory[name],
            halts.get(canary_digest(name, spec.canary)) if spec.canary is not None else None,
        )
        for name, (revision, spec) in sorted(found.items())
    }
    return Bindings(MappingProxyType(by_name))


def _parts(revision: Revision, model: Policy | Monitor | EditSet) -> tuple[Any, ...]:
    """Return the fields that every kind of revision has, in order."""
    return (
        revision.name,
        revision.revision,
        revision.digest,
        model.spec,
        revision.owner,
        MappingProxyType(dict(revision.artifacts)),
        model.metadata.description,
    )


def _changes(old: Catalog, new: Catalog) -> Changes:
    return Changes(
        _other(new.policies, old.policies),
        _gone(new.policies, old.policies),
        _other_bindings(new.bindings, old.bindings),
        tuple(name for name in old.bindings.by_name if name not in new.bindings.by_name),
        _other(new.monitors, old.monitors),
        _gone(new.monitors, old.monitors),
        _other(new.edits, old.edits),
        _gone(new.edits, old.edits),
    )


_R = TypeVar("_R", PolicyRevision, MonitorRevision, EditSetRevision)


def _other(new: Mapping[str, _R], old: Mapping[str, _R]) -> tuple[_R, ...]:
    return tuple(new[name] for name in sorted(new) if old.get(name) != new[name])


def _other_bindings(new: Bindings, old: Bindings) -> tuple[BindingRevision, ...]:
    return tuple(b for name, b in new.by_name.items() if old.by_name.get(name) != b)


def _gone(new: Mapping[str, _R], old: Mapping[str, _R]) -> tuple[_R, ...]:
    return tuple(revision for name, revision in old.items() if name not in new)
