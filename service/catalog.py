"""The catalog: an immutable snapshot of every active policy and of the binding; imports no torch.

A change makes a new snapshot, so a request that took one keeps it to its end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from service.documents import Document
from service.edit_schema import EditSetSpec
from service.errors import ServiceError
from service.explain import did_you_mean
from service.monitor_schema import MonitorSpec
from service.records import Key, Owner, Revision
from service.schemas import NO_POLICY, BindingSpec, EditSet, Kind, Monitor, Policy, PolicySpec


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


class UnknownPolicyError(CatalogError):
    """A binding that names a policy which is not there."""


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


@dataclass(frozen=True, slots=True)
class BindingRevision:
    """The active revision of the default binding; revision 0 is the implicit one."""

    revision: int = 0
    spec: BindingSpec = field(default_factory=BindingSpec)
    owner: Owner | None = None


Named = Mapping[str, PolicyRevision] | Mapping[str, MonitorRevision] | Mapping[str, EditSetRevision]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Policies, monitors and edit sets by name and the default binding.

    ``generation`` only grows.
    """

    policies: Mapping[str, PolicyRevision] = field(default_factory=lambda: MappingProxyType({}))
    binding: BindingRevision = field(default_factory=BindingRevision)
    generation: int = 0
    monitors: Mapping[str, MonitorRevision] = field(default_factory=lambda: MappingProxyType({}))
    edits: Mapping[str, EditSetRevision] = field(default_factory=lambda: MappingProxyType({}))

    def owner(self, key: Key) -> Owner | None:
        """Return who owns a document, or None if there is none of that name."""
        kind, name = key
        if kind == "Binding":
            return self.binding.owner
        found = self.of(kind).get(name)
        return found.owner if found is not None else None

    def of(self, kind: Kind) -> Named:
        """Return the active documents of a kind that has names."""
        if kind == "Policy":
            return self.policies
        return self.monitors if kind == "Monitor" else self.edits

    def users_of(self, monitor: str) -> tuple[PolicyRevision, ...]:
        """Return the policies that name a monitor, in whatever mode."""
        return tuple(p for p in self.policies.values() if monitor in p.spec.monitors)

    def edited_by(self, edits: str) -> tuple[PolicyRevision, ...]:
        """Return the policies that name an edit set, in whatever mode."""
        return tuple(p for p in self.policies.values() if edits in p.spec.edits)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new snapshot changed: documents new or with other content, removed, the binding."""

    changed: tuple[PolicyRevision, ...] = ()
    removed: tuple[PolicyRevision, ...] = ()
    binding: bool = False
    changed_monitors: tuple[MonitorRevision, ...] = ()
    removed_monitors: tuple[MonitorRevision, ...] = ()
    changed_edits: tuple[EditSetRevision, ...] = ()
    removed_edits: tuple[EditSetRevision, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything changed."""
        policies = self.changed or self.removed
        monitors = self.changed_monitors or self.removed_monitors
        return bool(
            policies or self.binding or monitors or self.changed_edits or self.removed_edits
        )


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


def referenced(binding: BindingSpec) -> tuple[str, ...]:
    """Return the names of the policies that a binding names."""
    names = (*binding.mandatory, binding.policy, *(binding.choices or ()))
    return tuple(dict.fromkeys(name for name in names if name != NO_POLICY))


def check_references(binding: BindingSpec, policies: Iterable[str]) -> None:
    """Refuse a binding that names unknown policies.

    Raises:
        UnknownPolicyError: With status 400.
    """
    known = set(policies)
    for name in referenced(binding):
        if name not in known:
            message = f"the binding names policy '{name}', which is not there"
            guess = did_you_mean(name, known) or "; apply that policy first"
            raise UnknownPolicyError(message + guess, 400, "unknown_policy")


def advance(catalog: Catalog, revisions: Iterable[Revision]) -> tuple[Catalog, Changes]:
    """Return the snapshot in which exactly these revisions are active, and what it changes.

    Without a change it is the old snapshot. The old one is never touched.

    Raises:
        CatalogError: The binding names a policy that is not among them.
    """
    policies: dict[str, PolicyRevision] = {}
    monitors: dict[str, MonitorRevision] = {}
    edits: dict[str, EditSetRevision] = {}
    binding = BindingRevision()
    for revision in revisions:
        model = revision.document().model
        if isinstance(model, Policy):
            policies[revision.name] = PolicyRevision(*_parts(revision, model))
        elif isinstance(model, Monitor):
            monitors[revision.name] = MonitorRevision(*_parts(revision, model))
        elif isinstance(model, EditSet):
            edits[revision.name] = EditSetRevision(*_parts(revision, model))
        else:
            binding = BindingRevision(revision.revision, model.spec, revision.owner)
    check_references(binding.spec, policies)
    advanced = replace(
        catalog,
        policies=MappingProxyType(dict(sorted(policies.items()))),
        monitors=MappingProxyType(dict(sorted(monitors.items()))),
        edits=MappingProxyType(dict(sorted(edits.items()))),
        binding=binding,
        generation=catalog.generation + 1,
    )
    changes = _changes(catalog, advanced)
    return (advanced if changes else catalog), changes


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
        new.binding != old.binding,
        _other(new.monitors, old.monitors),
        _gone(new.monitors, old.monitors),
        _other(new.edits, old.edits),
        _gone(new.edits, old.edits),
    )


_R = TypeVar("_R", PolicyRevision, MonitorRevision, EditSetRevision)


def _other(new: Mapping[str, _R], old: Mapping[str, _R]) -> tuple[_R, ...]:
    return tuple(new[name] for name in sorted(new) if old.get(name) != new[name])


def _gone(new: Mapping[str, _R], old: Mapping[str, _R]) -> tuple[_R, ...]:
    return tuple(revision for name, revision in old.items() if name not in new)
