"""Compiling: policies in, packed rows out. Nothing else turns a policy into table contents.

What a policy leaves open comes from the artifacts' cards. What this version does not serve, or
what does not fit the model, is refused here, before anything comes near a forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from forward.clauses import Region, TokenClause, regions
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.program import EMPTY, Program, RowContent, SiteContent, Watch
from forward.rows import MAX_GENERATION_REGIONS
from service.calibrated import calibrate_hint, find_calibration, threshold_of
from service.capacity import required, required_gates
from service.compile_entry import compile_entry
from service.digest import content_digest
from service.edit_compile import contents_of, edits_of, everywhere, refuse_contradictions
from service.entry import CompileError, Entry, NamedPolicy, absent, scaled
from service.gating import Gating, gating_of, put_gates
from service.library import Edited, Library, library_of, pin_key
from service.prompting import UNREAD, Conditions, Prompting
from service.schemas import PolicySpec
from service.steer_schema import content_of
from service.writes import Stack
from steering.library import Found
from steering.lower import AnyTerm, lower

__all__ = [
    "CompileError",
    "Library",
    "NamedPolicy",
    "artifacts_of",
    "compile_policy",
    "compile_stack",
    "policy_digest",
    "required",
    "required_gates",
]

NOTHING_MERGED: Mapping[HookPoint, SiteContent] = MappingProxyType({})

AnyLibrary = Library | Mapping[str, Found]
"""A library, or directions by name where nothing else is named."""


def compile_policy(
    policy: NamedPolicy,
    library: AnyLibrary,
    model: ModelFingerprint,
    every_mode: bool = False,
    prompting: Prompting = UNREAD,
    operator: Program = EMPTY,
    before: HookPoint | None = None,
) -> Program:
    """Compile one policy at strength 1; a request's strength multiplies it at run time.

    Args:
        policy: The policy.
        library: What it can name.
        model: The model that is served.
        every_mode: Compile as if it and its monitors were enforced, to know what capacity that
            takes; gates get stand-ins for thresholds that only a calibration knows. Otherwise a
            policy in shadow is checked and watched but does nothing, and one that is off is not
            looked at.
        prompting: How text becomes tokens, for calibrations.
        operator: What the mandatory policies write in the same requests, and what is merged into
            the weights, for calibrations.
        before: Compile only what writes before this hook point: what a monitor there can see,
            which must be known before it is calibrated. Gates later on need no calibration then.

    Raises:
        CompileError: It cannot be served; names the field.
    """
    conditions = Conditions(model, prompting)
    stack = Stack(operator, EMPTY, policy.spec.strength.default)
    compiler = _Compiler(conditions, every_mode, stack, before, NOTHING_MERGED)
    return compiler.program([_Part(policy, library_of(library), 1.0)])


def compile_stack(
    policies: Sequence[NamedPolicy],
    library: AnyLibrary | Sequence[AnyLibrary],
    model: ModelFingerprint,
    every_mode: bool = False,
    prompting: Prompting = UNREAD,
    before: HookPoint | None = None,
    merged: Mapping[HookPoint, SiteContent] = NOTHING_MERGED,
) -> Program:
    """Compile policies that apply together, each at its default strength, to be run at 1.

    Offsets add up and all their ablations project out one span.

    Args:
        policies: The policies.
        library: What they can name; one for each policy where they are pinned to different
            artifacts of one name.
        model: The model that is served.
        every_mode: As for ``compile_policy``.
        prompting: As for ``compile_policy``.
        before: As for ``compile_policy``.
        merged: What is merged into the weights, for calibrations; the program has none of it.

    Raises:
        CompileError: One cannot be served, or they have too many token clauses together.
    """
    single = isinstance(library, (Library, Mapping))
    libraries = [library] * len(policies) if single else library
    parts = [
        _Part(policy, library_of(own), policy.spec.strength.default)
        for policy, own in zip(policies, libraries, strict=True)
    ]
    compiler = _Compiler(Conditions(model, prompting), every_mode, Stack(EMPTY), before, merged)
    return compiler.program(parts)


def artifacts_of(spec: PolicySpec, library: AnyLibrary) -> dict[str, str]:
    """Return the digests of what a policy names, by key.

    Directions go by their names, ``sae/world-3`` is an SAE, ``monitor/harm`` a monitor (by its
    specification and what it reads), ``editset/moves`` an edit set (by its specification and what
    solves it). Names that the library lacks are left out; compiling refuses them.
    """
    known = library_of(library)
    directions = [name for steer in spec.steer for name in (steer.direction, steer.toward)]
    saes = [steer.feature.sae for steer in spec.steer if steer.feature is not None]
    pins = {n: known.directions[n].digest for n in directions if n and n in known.directions}
    pins |= {pin_key("sae", n): known.saes[n].digest for n in saes if n in known.saes}
    pins |= {pin_key("editset", n): known.edits[n].digest for n in spec.edits if n in known.edits}
    return pins | {
        pin_key("monitor", name): known.monitors[name].digest
        for name in spec.monitors
        if name in known.monitors
    }


def policy_digest(spec: PolicySpec, artifacts: Mapping[str, str]) -> str:
    """Return the identity of a policy: its specification and the artifacts it uses.

    Neither its name nor its description counts.
    """
    return content_digest({"spec": content_of(spec), "artifacts": dict(artifacts)})


@dataclass(frozen=True, slots=True)
class _Part:
    """One policy of a stack: what it can name, and what multiplies its coefficients."""

    policy: NamedPolicy
    library: Library
    strength: float


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Compiles parts that apply together.

    ``stack`` holds what else writes in the same requests, and the strength at which the program
    runs in them; writes at ``before`` and later are left out. ``merged`` acts beside the parts.
    """

    conditions: Conditions
    every_mode: bool
    stack: Stack
    before: HookPoint | None
    merged: Mapping[HookPoint, SiteContent]

    def program(self, parts: Sequence[_Part]) -> Program:
        entries: list[Entry] = []
        gatings: list[Gating] = []
        edits: list[Edited] = []
        for part in parts:
            if part.policy.spec.mode == "off" and not self.every_mode:
                continue
            plain, gated = self._entries(part)
            edited = edits_of(part.policy.name, part.policy.spec.edits, part.library)
            if part.policy.spec.mode == "enforce" or self.every_mode:
                entries += plain
                gatings += gated
                edits += edited
        if parts and not self.every_mode:  # the modes that exclude each other may contradict
            refuse_contradictions(parts[0].policy.name, edits)
        contents = contents_of(edits, self.before)
        entries = put_gates(entries, gatings, partial(self._threshold, contents))
        watched = self._watched(parts)
        if not entries and not watched and not contents:
            return EMPTY
        return _program(entries, contents, watched)

    def _entries(self, part: _Part) -> tuple[list[Entry], list[Gating]]:
        """Return a policy's entries without a gate, and the gates of the others that act."""
        policy, spec = part.policy, part.policy.spec
        self._refuse_unserved(part)
        limit = max(abs(spec.strength.min), abs(spec.strength.max), abs(part.strength))
        entries = [
            compile_entry(policy.name, i, steer, part.library, self.conditions.model, limit)
            for i, steer in enumerate(spec.steer)
        ]
        _cut(entries)
        entries = [scaled(entry, part.strength) for entry in entries]
        if self.before is not None:
            entries = [e for entry in entries if (e := entry.before(self.before)).terms]
        gatings = [gating_of(e, e.when, part.library) for e in entries if e.when is not None]
        acting = [
            gating
            for gating in gatings
            if self.every_mode or spec.monitors[gating.when.monitor].mode == "enforce"
        ]
        return [entry for entry in entries if entry.when is None], acting

    def _refuse_unserved(self, part: _Part) -> None:
        for name in self._in_use(part):
            if name not in part.library.monitors:
                known = list(part.library.monitors)
                reason = absent("monitor", name, known, "apply its document first")
                raise CompileError(part.policy.name, f"spec.monitors.{name}", reason)

    def _in_use(self, part: _Part) -> list[str]:
        uses = part.policy.spec.monitors.items()
        return [name for name, use in uses if use.mode != "off" or self.every_mode]

    def _watched(self, parts: Sequence[_Part]) -> tuple[Watch, ...]:
        watches = [
            Watch(reader.point, read)
            for part in parts
            if part.policy.spec.mode != "off" or self.every_mode
            for name in self._in_use(part)
            for reader in [part.library.monitors[name].plan.reader]
            for read in reader.reads
        ]
        return tuple({watch.key: watch for watch in watches}.values())

    def _threshold(
        self, edits: Mapping[HookPoint, SiteContent], gating: Gating, before: Sequence[Entry]
    ) -> float:
        """Return the threshold of a gate by false-positive rate, beside what acts before it."""
        fpr = gating.when.fpr or 0.0
        if self.every_mode:
            return fpr  # a stand-in: gates of different rates stay different gates
        own = everywhere(_program(before, edits), self.merged)
        stack = Stack(self.stack.operator, own, self.stack.strength)
        binding = self.conditions.binding(gating.plan.digest, stack.writes(gating.point))
        name = gating.when.monitor
        value: float | None = None
        found, reason = find_calibration(name, gating.library.calibrations, binding)
        if found is not None:
            value, reason = threshold_of(found.content, fpr, gating.unit)
        if value is None:
            raise gating.error("fpr", f"{reason}; {calibrate_hint(name)}, or write 'above'")
        return value


def _program(
    entries: Sequence[Entry],
    edits: Mapping[HookPoint, SiteContent],
    watched: tuple[Watch, ...] = (),
) -> Program:
    cut = _cut(entries)
    return Program(cut, tuple(_row(entries, edits, region) for region in cut), watched)


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


def _row(
    entries: Sequence[Entry], edits: Mapping[HookPoint, SiteContent], region: Region
) -> RowContent:
    """Return a region's row: edits hold at every token, whatever the region."""
    by_point: dict[HookPoint, list[AnyTerm]] = {}
    for entry in entries:
        if entry.clause.covers(region):
            for point, term in entry.terms:
                by_point.setdefault(point, []).append(term)
    found = {point: lower(terms) for point, terms in by_point.items()}
    steered = {point: content for point, content in found.items() if content is not None}
    return RowContent(steered | dict(edits))
