"""What is to be active: documents, each with the artifacts that it means, compiled.

Compiling is where a change is refused; nothing has been touched by then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from forward.fingerprint import ModelFingerprint
from forward.program import Program
from service.artifacts import ArtifactLibrary
from service.catalog import check_references, merge
from service.compile import Library, artifacts_of, compile_policy, compile_stack
from service.directory import DirectoryState
from service.documents import Document
from service.records import Key, Owner
from service.schemas import BindingSpec, Policy, PolicySpec
from service.store import Store
from steering.library import Found


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document that is to be active.

    Attributes:
        document: The document.
        owner: Who owns it.
        pinned: The digests of its artifacts, if it was recorded before with any.
        own: What lies beside the directory's documents and comes before anything else of its
            name: what is posted must not change what a file says.
    """

    document: Document
    owner: Owner
    pinned: Mapping[str, str] | None = None
    own: Mapping[str, Found] = field(default_factory=dict[str, Found])


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
        policies: Each policy that is not off, by name.
        every_mode: The same and the operator's stack as if all were enforced: what capacity must
            hold so that a mode can be switched.
    """

    planned: tuple[Planned, ...]
    operator: Program
    policies: Mapping[str, Program]
    every_mode: tuple[Program, ...]


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
) -> list[Wanted]:
    """Return what is to be active: the directory's, then what is posted, then what was active.

    The directory's artifacts are added to the store first. Blocking: call off the event loop.

    Raises:
        ArtifactError, StoreError: An artifact of the directory is damaged or cannot be kept.
    """
    own = library.adopt(directory.artifacts_folder) if directory is not None else {}
    kept = {r.key: r for r in store.all_active() if r.owner == "api"}
    from_api = [revision.document() for revision in kept.values()] + list(posted)
    merged = merge(directory.documents if directory else [], from_api)
    new: set[Key] = {document.key for document in posted}
    return [
        Wanted(
            item.document,
            item.owner,
            kept[key].artifacts if item.owner == "api" and key not in new else None,
            own if item.owner == "directory" else {},
        )
        for key, item in merged.items()
    ]


def compile_desired(
    documents: Iterable[Wanted], library: ArtifactLibrary, model: ModelFingerprint
) -> Desired:
    """Compile everything that is to be active.

    Raises:
        CompileError: A policy cannot be served.
        CatalogError: The binding names a policy that is not there.
        ArtifactNotFoundError: A recorded revision's artifact is gone.
    """
    ordered = sorted(documents, key=lambda w: w.document.key)
    newest = library.newest()
    policies: dict[str, _Named] = {}
    planned: list[Planned] = []
    binding = BindingSpec()
    for item in ordered:
        model_of = item.document.model
        artifacts: Mapping[str, str] = {}
        if isinstance(model_of, Policy):
            found = {**newest, **item.own} if item.pinned is None else library.pinned(item.pinned)
            artifacts = artifacts_of(model_of.spec, found)
            policies[item.document.name] = _Named(item.document.name, model_of.spec, found)
        else:
            binding = model_of.spec
        planned.append(Planned(item.document, item.owner, artifacts))
    check_references(binding, policies)
    mandatory = [policies[name] for name in binding.mandatory]
    return Desired(
        tuple(planned),
        _stack(mandatory, model, every_mode=False),
        {
            name: compile_policy(policy, policy.library, model)
            for name, policy in policies.items()
            if policy.spec.mode != "off"
        },
        (
            *(compile_policy(p, p.library, model, every_mode=True) for p in policies.values()),
            _stack(mandatory, model, every_mode=True),
        ),
    )


def _stack(policies: list[_Named], model: ModelFingerprint, every_mode: bool) -> Program:
    return compile_stack(policies, [p.library for p in policies], model, every_mode)
