"""Turns a schema's complaints into messages that say where, why and what instead."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from service.schemas import field_names

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong at one path of a document.

    ``on_key`` is true where the key itself is at fault rather than its value.
    """

    path: Path
    message: str
    on_key: bool = False


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[Complaint, ...]:
    """Return the complaints of a validation of ``model``, in the order of its fields."""
    return tuple(_complaint(dict(detail), model) for detail in error.errors(include_url=False))


def path_text(path: Path) -> str:
    """Return a path as people write it: ``spec.steer[0].tokens``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known word, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _complaint(detail: Mapping[str, Any], model: type[BaseModel]) -> Complaint:
    # Tags of unions are written <so>, and [key] marks a mapping's key: neither is in the document.
    location: Path = detail["loc"]
    path = tuple(part for part in location if not str(part).startswith(("<", "[key]")))
    on_key = "[key]" in location or detail["type"] == "extra_forbidden"
    return Complaint(path, _message(detail, path, model), on_key)


def _message(detail: Mapping[str, Any], path: Path, model: type[BaseModel]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_field(str(path[-1]), fields_at(model, path[:-1]))
        case "missing":
            return f"field '{path[-1]}' is missing"
        case "string_pattern_mismatch":
            return (
                f"{shown(detail['input'])} is not a name: write 1 to 63 lower-case letters, digits "
                "and '-', starting with a letter or digit"
            )
        case "literal_error":
            wanted = str(detail["ctx"]["expected"])
            guess = did_you_mean(str(detail["input"]), re.findall(r"'(\w+)'", wanted))
            return f"{shown(detail['input'])} is not one of {wanted}{guess}"
        case "finite_number":
            return "NaN and infinity are not numbers that a policy can use"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"a mapping belongs here, not {shown(detail['input'])}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            return _plain(detail)


def _plain(detail: Mapping[str, Any]) -> str:
    text = str(detail["msg"]).replace("Input should", "must").replace("Value should", "must")
    return f"{text}, not {shown(detail['input'])}" if text.startswith("must be") else text


def _unknown_field(name: str, fields: list[str]) -> str:
    guess = did_you_mean(name, fields)
    return f"unknown field '{name}'{guess or '; fields here: ' + ', '.join(fields)}"


def shown(value: object, limit: int = 60) -> str:
    """Return a value as a short quotation."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Return the fields of the nested model at a path of ``model``'s documents."""
    annotation: Any = model
    for part in path:
        annotation = _step(annotation, part)
    return list(field_names(found)) if (found := _model_in(annotation)) else []


def _step(annotation: Any, part: str | int) -> Any:
    model = _model_in(annotation)
    if model is not None:
        by_alias = {field.alias or name: field for name, field in model.model_fields.items()}
        return by_alias[str(part)].annotation if part in by_alias else None
    for option in _options(annotation):
        if get_origin(option) in (tuple, dict):
            return get_args(option)[isinstance(part, str)]
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _options(annotation: Any) -> list[Any]:
    """Return the members of a union, without their annotations; of another type itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    # Unions have two origins in Python 3.11; what the schemas use besides them is this.
    if origin in (None, tuple, dict, Literal):
        return [annotation]
    return [option for member in get_args(annotation) for option in _options(member)]
