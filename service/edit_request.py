"""What ``POST edits`` asks for: an edit set to be solved, or a solved one to be evaluated."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from editing.datasets import FORMATS
from editing.errors import EditError
from editing.gates import GATES
from service.documents import Document, parse_content, parse_documents
from service.errors import ServiceError
from service.explain import did_you_mean, explain, path_text
from service.steer_schema import Strict

Format = Literal["trimtab", "counterfact", "zsre", "mquake"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
T = TypeVar("T", bound=Strict)
Cases = Annotated[tuple[dict[str, Any], ...], Field(strict=False, max_length=10_000)]


class RequestError(ServiceError):
    """A request for an edit that asks for what cannot be."""


class SolveSettings(Strict):
    """What a solve depends on beside the document; the command line has options of these names."""

    tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    prefixes: Annotated[int, Field(ge=0, le=64)] = 4
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    stop: Annotated[float, Field(ge=0)] = 0.05
    clamp: Annotated[float, Field(gt=0)] = 4.0
    keep: Annotated[float, Field(ge=0)] = 1.0
    weight: Annotated[float, Field(gt=0)] = 10.0


class Evaluation(Strict):
    """Cases on which an edit is judged, beside the unedited model."""

    cases: Cases = ()
    format: Format = "trimtab"


class Solving(Evaluation):
    """What is asked beside the document.

    Attributes:
        override: Gates that may fail; recorded on the edit.
        beside: Digests of edits that act already; their keys are guarded.
        settings: Other than the usual ones; then a set that is solved already is solved again.
        alike: Digest of an edit whose settings are taken over.
    """

    override: Annotated[tuple[str, ...], Field(strict=False, max_length=16)] = ()
    beside: Annotated[tuple[Digest, ...], Field(strict=False, max_length=64)] = ()
    settings: SolveSettings | None = None
    alike: Digest | None = None

    @property
    def is_special(self) -> bool:
        """Whether an edit that is there already is no answer."""
        return bool(self.cases or self.beside or self.settings)


def read_solving(body: Mapping[str, Any]) -> tuple[Document, Solving]:
    """Return the document of ``{"document": …, "override": …, "cases": …}`` and the rest.

    Raises:
        DocumentsError: The document does not fit its schema.
        RequestError: The rest does not.
    """
    fields = dict(body)
    document = only_edit_set([parse_content(fields.pop("document", None))])
    return document, checked(_validated(Solving, fields))


def read_evaluation(body: object) -> Evaluation:
    """Return the cases of ``{"cases": […], "format": …}``.

    Raises:
        RequestError: It has another form, or there are no cases.
    """
    if not isinstance(body, dict):
        raise RequestError('the body is an object {"cases": […], "format": …}')
    asked = _validated(Evaluation, body)
    if not asked.cases:
        raise RequestError("there are no cases to evaluate on: give a list of them as 'cases'")
    _check_cases(asked)
    return asked


def read_document(text: bytes) -> Document:
    """Return the one edit set of a text of YAML or JSON.

    Raises:
        DocumentsError: It does not parse or does not fit its schema.
        RequestError: It holds no edit set, or more than that.
    """
    return only_edit_set(parse_documents(text))


def only_edit_set(documents: Sequence[Document]) -> Document:
    """Return the edit set that documents consist of.

    Raises:
        RequestError: They are other documents.
    """
    if len(documents) != 1 or documents[0].kind != "EditSet":
        found = ", ".join(f"{d.kind} '{d.name}'" for d in documents) or "nothing"
        raise RequestError(f"one document of kind EditSet is solved at a time, not {found}")
    return documents[0]


def checked(asked: Solving) -> Solving:
    """Return what is asked if all that it names is there.

    Raises:
        RequestError: An override names no gate, a case is malformed, or settings are given twice.
    """
    if asked.settings is not None and asked.alike is not None:
        raise RequestError("'settings' and 'alike' both say how to solve: give one of them")
    for name in asked.override:
        if name not in GATES:
            guess = did_you_mean(name, GATES)
            known = ", ".join(GATES)
            raise RequestError(f"there is no gate '{name}'{guess}; the gates are {known}")
    _check_cases(asked)
    return asked


def _check_cases(asked: Evaluation) -> None:
    for number, record in enumerate(asked.cases):
        try:
            FORMATS[asked.format](record, number)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            message = f"cases[{number}] is not in {asked.format}'s format: {error!r}"
            raise RequestError(message) from error
        except EditError as error:
            raise RequestError(f"cases[{number}]: {error}") from error


def _validated(model: type[T], fields: Mapping[str, Any]) -> T:
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        complaint = next(iter(explain(error, model)))
        raise RequestError(f"{path_text(complaint.path)}: {complaint.message}") from error
