"""Compiling: policies in, packed rows out. Nothing else turns a policy into table contents.

What a policy leaves open comes from the direction's card. What this version does not serve, or
what does not fit the model, is refused here, before anything comes near a forward pass.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from forward.clauses import Region, TokenClause, regions
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.program import EMPTY, Program, RowContent
from forward.rows import MAX_GENERATION_REGIONS
from forward.site import Capacity
from service.compile_entry import CompileError, Entry, compile_entry, scaled
from service.digest import content_digest
from service.schemas import PolicySpec
from service.steer_schema import content_of
from steering.library import Found
from steering.lower import Term, lower

__all__ = [
    "CompileError",
    "Library",
    "NamedPolicy",
    "artifacts_of",
    "compile_policy",
    "compile_stack",
    "policy_digest",
    "required",
]

Library = Mapping[str, Found]
"""Directions by name, with the digests of their artifacts."""


class NamedPolicy(Protocol):
    """A policy as the compiler sees it."""

    @property
    def name(self) -> str:
        """Its name, for errors."""
        ...

    @property
    def spec(self) -> PolicySpec:
        """What it does."""
        ...


def compile_policy(
    policy: NamedPolicy, library: Library, model: ModelFingerprint, every_mode: bool = False
) -> Program:
    """Compile one policy at strength 1; a request's strength multiplies it at run time.

    Args:
        policy: The policy.
        library: Where its directions are.
        model: The model that is served.
        every_mode: Compile as if enforced. Otherwise a policy in shadow is checked but does
            nothing, and one that is off is not looked at.

    Raises:
        CompileError: It cannot be served; names the field.
    """
    return _program(_entries(policy, 1.0, library, model, every_mode))


def compile_stack(
    policies: Sequence[NamedPolicy],
    library: Library | Sequence[Library],
    model: ModelFingerprint,
    every_mode: bool = False,
) -> Program:
    """Compile policies that apply together, each at its default strength, to be run at 1.

    Offsets add up and all their ablations project out one span.

    Args:
        policies: The policies.
        library: Where their directions are; one for each policy where they are pinned to
            different artifacts of one name.
        model: The model that is served.
        every_mode: As for ``compile_policy``.

    Raises:
        CompileError: One cannot be served, or they have too many token clauses together.
    """
    libraries = [library] * len(policies) if isinstance(library, Mapping) else library
    entries: list[Entry] = []
    for policy, own in zip(policies, libraries, strict=True):
        strength = policy.spec.strength.default
        entries += _entries(policy, strength, own, model, every_mode)
    return _program(entries)


def required(programs: Sequence[Program]) -> dict[HookPoint, Capacity]:
    """Return the smallest capacity of every site that holds all these programs at once.

    Rows are counted over all sites together, row 0 included; reads and writes at each.
    """
    contents = {c.digest: c for p in programs for c in p.contents if c.sites}
    points = sorted({point for content in contents.values() for point in content.sites})
    return {point: _capacity(point, list(contents.values())) for point in points}


def artifacts_of(spec: PolicySpec, library: Library) -> dict[str, str]:
    """Return the artifact digests of the directions that a policy names, by name.

    Names that the library lacks are left out; compiling refuses them.
    """
    named = [name for steer in spec.steer for name in (steer.direction, steer.toward)]
    return {name: library[name].digest for name in named if name is not None and name in library}


def policy_digest(spec: PolicySpec, artifacts: Mapping[str, str]) -> str:
    """Return the identity of a policy: its specification and the artifacts it uses.

    Neither its name nor its description counts.
    """
    return content_digest({"spec": content_of(spec), "artifacts": dict(artifacts)})


def _entries(
    policy: NamedPolicy,
    strength: float,
    library: Library,
    model: ModelFingerprint,
    every_mode: bool,
) -> list[Entry]:
    spec = policy.spec
    if spec.mode == "off" and not every_mode:
        return []
    _refuse_unserved(policy)
    limit = max(abs(spec.strength.min), abs(spec.strength.max), abs(strength))
    entries = [
        compile_entry(policy.name, index, steer, library, model, limit)
        for index, steer in enumerate(spec.steer)
    ]
    _cut(entries)
    if spec.mode == "shadow" and not every_mode:
        return []
    return [scaled(entry, strength) for entry in entries]


def _refuse_unserved(policy: NamedPolicy) -> None:
    if policy.spec.edits:
        raise CompileError(
            policy.name, "spec.edits", "edits are not served by this version; remove the list"
        )
    for name, use in policy.spec.monitors.items():
        if use.mode != "off":
            raise CompileError(
                policy.name,
                f"spec.monitors.{name}.mode",
                f"monitors are not served by this version; set mode: off (it is {use.mode})",
            )


def _program(entries: Sequence[Entry]) -> Program:
    if not entries:
        return EMPTY
    cut = _cut(entries)
    return Program(cut, tuple(_row(entries, region) for region in cut))


def _cut(entries: Sequence[Entry]) -> tuple[Region, ...]:
    """Return the regions on which every entry's clause is constant."""
    cut = regions(entry.clause for entry in entries)
    starts = [region.start for region in cut if region.phase == "generation"]
    if len(starts) > MAX_GENERATION_REGIONS:
        late = next(e for e in entries if e.clause == TokenClause("generation", starts[-1]))
        raise CompileError(
            late.policy,
            f"{late.path}.tokens",
            f"{len(starts) - 1} different 'from' clauses ({', '.join(map(str, starts[1:]))}); at "
            f"most {MAX_GENERATION_REGIONS - 1} can apply together, so let entries share a start",
        )
    return cut


def _row(entries: Sequence[Entry], region: Region) -> RowContent:
    by_point: dict[HookPoint, list[Term]] = {}
    for entry in entries:
        if entry.clause.covers(region):
            for point, term in entry.terms:
                by_point.setdefault(point, []).append(term)
    found = {point: lower(terms) for point, terms in by_point.items()}
    return RowContent({point: content for point, content in found.items() if content is not None})


def _capacity(point: HookPoint, contents: Sequence[RowContent]) -> Capacity:
    columns = [
        column
        for content in contents
        if point in content.sites
        for column, _ in content.sites[point].columns
    ]
    reads = {read.digest for column in columns for read in column.reads}
    return Capacity(1 + len(contents), len(reads), len({column.digest for column in columns}))
