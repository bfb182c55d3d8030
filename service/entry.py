"""What the parts of the compiler share: its error, an entry under way, and limits."""

from dataclasses import dataclass, replace
from typing import Protocol

from forward.clauses import TokenClause
from forward.fingerprint import ModelFingerprint
from forward.gates import Gate
from forward.hookpoints import HookPoint
from service.errors import ServiceError
from service.explain import did_you_mean
from service.schemas import PolicySpec
from service.steer_schema import Phase, TokensFrom, When
from steering.lower import AnyTerm

MAX_LENGTH = 1e6
"""Longest offset, bound or value, in absolute units, at the largest strength allowed."""
MAX_COEFFICIENT = 1e3
"""Largest multiple of a measured amount (ablate, clamp, set, rotate, add by norm)."""


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


class CompileError(ServiceError):
    """A document that cannot be served: which, where in it, and why."""

    kind = "policy"

    def __init__(self, policy: str, path: str, reason: str) -> None:
        """Name the document, the path of the field in it, and the reason."""
        super().__init__(f"{self.kind} '{policy}', {path}: {reason}")
        self.policy, self.path, self.reason = policy, path, reason


class MonitorCompileError(CompileError):
    """A monitor that cannot be served."""

    kind = "monitor"


class EditCompileError(CompileError):
    """An edit set that cannot be served."""

    kind = "edit set"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one entry of a ``steer`` list compiles to.

    Attributes:
        policy: Name of the policy.
        path: Path of the entry in the document, ``spec.steer[0]``.
        clause: Which tokens.
        terms: What is done where.
        when: The gate that is still to be put on the terms.
    """

    policy: str
    path: str
    clause: TokenClause
    terms: tuple[tuple[HookPoint, AnyTerm], ...]
    when: When | None = None

    @property
    def first(self) -> HookPoint:
        """The first hook point it writes at."""
        return min(point for point, _ in self.terms)

    def before(self, point: HookPoint) -> "Entry":
        """Return what of the entry writes before a hook point; maybe nothing."""
        return replace(self, terms=tuple((p, term) for p, term in self.terms if p < point))

    def error(self, field: str, reason: str) -> CompileError:
        """Return the refusal of a field of the entry."""
        return CompileError(self.policy, f"{self.path}.{field}", reason)

    def gated(self, gate: Gate, clause: TokenClause) -> "Entry":
        """Return the entry under a gate, on the tokens of ``clause``."""
        terms = tuple((point, replace(term, gate=gate)) for point, term in self.terms)
        return replace(self, terms=terms, clause=clause, when=None)


def scaled(entry: Entry, strength: float) -> Entry:
    """Return the entry with all its coefficients multiplied."""
    terms = tuple(
        (point, replace(term, coefficient=term.coefficient * strength))
        for point, term in entry.terms
    )
    return replace(entry, terms=terms)


def clause_of(tokens: Phase | TokensFrom) -> TokenClause:
    """Return the token clause that a document writes."""
    if isinstance(tokens, TokensFrom):
        return TokenClause("generation", tokens.start)
    return TokenClause(tokens)


def absent(kind: str, name: str | None, known: list[str], instead: str) -> str:
    """Return why an artifact that is named cannot be had."""
    listed = ", ".join(sorted(known)) or "none"
    guess = did_you_mean(name or "", known)
    return f"there is no {kind} '{name}' (there are: {listed}){guess or f'; {instead}'}"


def misfit(
    name: str, model: str, width: int, point: HookPoint, served: ModelFingerprint
) -> str | None:
    """Return why an artifact does not fit the model that is served; None if it does."""
    if model != served.digest:
        return (
            f"'{name}' was made on model {model[:12]}, but the model served is "
            f"{served.digest[:12]}; make it again on this model"
        )
    if width != served.d_model:
        return f"'{name}' reads width {width}, the model's residual has {served.d_model}"
    if point.layer >= served.n_layers:
        return f"'{name}' reads at {point}, outside the model: it has {served.n_layers} layers"
    return None
