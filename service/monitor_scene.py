"""The scene of a monitor's scores: a model, a document, and the policies that write before it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.huggingface import Steering
from forward.program import EMPTY
from monitors.baselines import BagOfWords
from monitors.binding import Binding
from monitors.calibration import Calibration
from monitors.items import Item, read_items
from monitors.offline import Scoring, Steerings, score_items
from monitors.plan import MonitorPlan
from monitors.samples import SampleSet, sample_set, words_of
from service.artifacts import library_of_folder
from service.binding_schema import DEFAULT, BindingSpec
from service.bindings import Stacked, check_bindings, replaced
from service.calibrated import find_calibration
from service.compile import compile_policy, compile_stack
from service.directory import ARTIFACTS
from service.documents import Document, load_paths
from service.edit_compile import compile_edit_set, contents_of, everywhere, merged_of
from service.library import Library
from service.monitor_compile import compile_monitor
from service.monitors import Dtype, MonitorCommandError, OpenModel, identify, load, opened
from service.prompting import Conditions, Prompting, read_prompting
from service.schemas import Binding as BindingDocument
from service.schemas import EditSet, Monitor, Policy, PolicySpec
from service.writes import Stack


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """What the command line says about scoring a monitor.

    Attributes:
        model: Checkpoint folder or hub name.
        document: File or folder with the monitor's document.
        monitor: Its name, where there are several.
        artifacts: Folder of artifacts; None: ``artifacts`` beside the document.
        policies: Folder of policies whose writes are there.
        policy: The policy that a client would choose.
        binding: The binding that says which are mandatory.
        is_canary: Whether its canary is in its place.
        strength: Its strength; None: its default.
        words: Items to fit the bag of words on; None: cross-fitted on those scored.
        generate: Tokens that items without an answer are answered with.
        dtype: Precision of the model.
    """

    model: str
    document: Path
    monitor: str | None = None
    artifacts: Path | None = None
    policies: Path | None = None
    policy: str | None = None
    binding: str = DEFAULT
    is_canary: bool = False
    strength: float | None = None
    words: Path | None = None
    generate: int = 64
    dtype: Dtype = "float32"


@dataclass(frozen=True, eq=False)
class Scene:
    """A model, a monitor's plan and the steerings it is scored under."""

    request: ScoringRequest
    loaded: OpenModel
    library: Library
    plan: MonitorPlan
    binding: Binding
    steerings: Steerings

    @classmethod
    def of(cls, request: ScoringRequest, progress: Progress) -> "Scene":
        """Read, compile and load everything.

        Raises:
            One of ``service.monitors.EXPECTED``.
        """
        checkpoint, fingerprint = identify(request.model, progress)
        conditions = Conditions(fingerprint, _prompting(checkpoint))
        papers = _Papers.of(request, fingerprint)
        plan = papers.library.monitors[papers.monitor].plan
        stack = papers.stack(request, conditions, plan.reader.point)
        binding = conditions.binding(plan.digest, stack.writes(plan.reader.point))
        loaded = load(checkpoint, fingerprint, request.dtype)
        return cls(request, loaded, papers.library, plan, binding, _steerings(stack))

    def samples(self, items: Sequence[Item], progress: Progress) -> SampleSet:
        """Return the samples of items with their baselines."""
        words = self._words(progress)
        scorings = self._score(items, "scoring items", progress)
        return sample_set(scorings, self.plan.name, words)

    def calibration(self, path: Path | None) -> tuple[Calibration, str]:
        """Return the calibration that holds here with its digest.

        Raises:
            MonitorCommandError: There is none; or the one of ``path`` is for other conditions.
        """
        if path is not None:
            saved = opened(path.with_suffix(".safetensors"))
            if not isinstance(saved.content, Calibration):
                raise MonitorCommandError(f"{path} is no calibration")
            different = saved.content.mismatch(**asdict(self.binding))
            if different is not None:
                raise MonitorCommandError(f"the calibration {path} does not hold here: {different}")
            return saved.content, saved.artifact.digest
        kept, reason = find_calibration(self.plan.name, self.library.calibrations, self.binding)
        if kept is None:
            raise MonitorCommandError(f"{reason}; run trimtab monitor calibrate first")
        return kept.content, kept.digest

    def _words(self, progress: Progress) -> BagOfWords | None:
        if self.request.words is None:
            return None
        items = read_items(self.request.words)
        scorings = self._score(items, "reading items for the bag of words", progress)
        return words_of(scorings, self.plan.name)

    def _score(self, items: Sequence[Item], what: str, progress: Progress) -> list[Scoring]:
        task = progress.add_task(what, total=len(items))
        return score_items(
            self.loaded.model,
            self.loaded.tokenizer,
            items,
            [self.plan],
            steerings=self.steerings,
            max_new_tokens=self.request.generate if self.plan.reads_generation else 0,
            eos=_eos(self.loaded),
            progress=lambda n: progress.advance(task, n),
        )


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    spec: PolicySpec


@dataclass(frozen=True, eq=False)
class _Papers:
    """The documents of a request, and what they can name."""

    monitor: str
    library: Library
    policies: dict[str, _Named]
    bindings: dict[str, BindingSpec]

    @classmethod
    def of(cls, request: ScoringRequest, model: ModelFingerprint) -> "_Papers":
        given = load_paths([request.document])
        documents = given if request.policies is None else load_paths(_paths(request))
        monitors = [(d.name, d.model.spec) for d in documents if isinstance(d.model, Monitor)]
        beside = request.document if request.document.is_dir() else request.document.parent
        library = library_of_folder(request.artifacts or beside / ARTIFACTS)
        compiled = {name: compile_monitor(name, spec, library, model) for name, spec in monitors}
        edited = {
            d.name: compile_edit_set(d.name, d.model.spec, library, model)
            for d in documents
            if isinstance(d.model, EditSet)
        }
        bindings = {d.name: d.model.spec for d in documents if isinstance(d.model, BindingDocument)}
        return cls(
            _only_monitor(request, given),
            replace(library, monitors=compiled, edits=edited),
            {
                d.name: _Named(d.name, d.model.spec)
                for d in documents
                if isinstance(d.model, Policy)
            },
            {DEFAULT: BindingSpec()} | bindings,
        )

    def stack(self, request: ScoringRequest, conditions: Conditions, before: HookPoint) -> Stack:
        """Return what acts ``before`` a hook point: mandatory policies, the chosen one, the merged.

        What is written later cannot reach a monitor there, and may need its calibration.
        """
        if request.policies is None:
            if request.policy is not None:
                raise MonitorCommandError(
                    "--policy names a policy of a folder; give the folder with --policies"
                )
            return Stack(EMPTY)
        names = self._mandatory(request)
        mandatory = [self.policies[name] for name in names]
        model, prompting = conditions.model, conditions.prompting
        weights = contents_of(merged_of(self.library.edits.values()), before)
        operator = everywhere(
            compile_stack(
                mandatory,
                self.library,
                model,
                prompting=prompting,
                before=before,
                merged=weights,
            ),
            weights,
        )
        if request.policy is None or request.policy in names:
            return Stack(operator)
        chosen = self._policy(request.policy)
        client = compile_policy(
            chosen, self.library, model, prompting=prompting, operator=operator, before=before
        )
        default = chosen.spec.strength.default
        return Stack(operator, client, default if request.strength is None else request.strength)

    def _mandatory(self, request: ScoringRequest) -> Stacked:
        """Return the names of what is mandatory under the binding that is asked for."""
        specs = {name: policy.spec for name, policy in self.policies.items()}
        if request.binding not in self.bindings:
            known = ", ".join(sorted(self.bindings))
            raise MonitorCommandError(
                f"there is no binding '{request.binding}'; there are: {known}"
            )
        found = check_bindings(self.bindings, specs)[request.binding]
        canary = self.bindings[request.binding].canary
        if not request.is_canary:
            return found
        if canary is None:
            raise MonitorCommandError(f"binding '{request.binding}' declares no canary")
        return replaced(found, canary)

    def _policy(self, name: str) -> _Named:
        if name not in self.policies:
            raise MonitorCommandError(
                f"there is no policy '{name}'; there are: "
                f"{', '.join(sorted(self.policies)) or 'none'}"
            )
        return self.policies[name]


def _paths(request: ScoringRequest) -> list[Path]:
    """Return the policies' folder, and the monitor's document unless it lies in that folder."""
    if request.policies is None:
        return [request.document]
    folder, document = request.policies.resolve(), request.document.resolve()
    return [folder] if folder in (document, document.parent) else [folder, document]


def _only_monitor(request: ScoringRequest, documents: Sequence[Document]) -> str:
    names = [document.name for document in documents if document.kind == "Monitor"]
    matching = [name for name in names if request.monitor in (None, name)]
    if len(matching) != 1:
        which = f"named '{request.monitor}'" if request.monitor else "in all"
        known = f" ({', '.join(names)}); choose one with --monitor" if names else ""
        raise MonitorCommandError(
            f"{request.document} has {len(matching)} documents of kind Monitor {which}{known}"
        )
    return matching[0]


def _steerings(stack: Stack) -> Steerings:
    """Return the steerings of a stack; none when it writes nothing."""
    pairs = [(stack.operator, 1.0), (stack.client, stack.strength)]
    if not any(content.sites for program, _ in pairs for content in program.contents):
        return ()
    return [Steering(program, strength) for program, strength in pairs]


def _prompting(checkpoint: Path) -> Prompting:
    try:
        return read_prompting(checkpoint)
    except (OSError, ValueError) as error:
        raise MonitorCommandError(f"{checkpoint} has no tokenizer that loads: {error}") from error


def _eos(loaded: OpenModel) -> set[int]:
    """Return the tokens that end an answer, as the checkpoint says."""
    config: Any = loaded.model.generation_config
    found = config.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return {int(one) for one in (*ids, loaded.tokenizer.eos_token_id) if one is not None}
