"""Makes the description: every route that is served, with its handler's words and its role."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from service.api.openapi.shape import Refusal
from service.api.openapi.table import (
    DOCUMENTS,
    EDIT_SET,
    JSON,
    OPERATIONS,
    PATHS,
    YAML,
    Operation,
    Parameter,
)
from service.api.roles import PREFIX, Permissions
from service.edit_request import Solving
from service.schemas import json_schema

_REF = "#/components/schemas/{model}"
_PART = re.compile(r"\{(\w+)(?::\w+)?\}")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_ABOUT = (
    "The operations of a Trimtab server: policies, monitors, edits and bindings, and what is kept "
    "of requests. The inference routes are vLLM's and described by OpenAI."
)

Schema = dict[str, Any]


def describe(routes: Iterable[BaseRoute]) -> Schema:
    """Return the OpenAPI document of our routes; one that is not in ``OPERATIONS`` is left out."""
    permissions, paths = Permissions(), dict[str, Schema]()
    for path, method, route in served(routes):
        operation = OPERATIONS.get((method, short(path)))
        if operation is not None:
            role = permissions.of(path).get(method)
            paths.setdefault(path, {})[method.lower()] = _operation(path, route, operation, role)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trimtab operations", "version": _version(), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def served(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Route]]:
    """Yield each path and method that is served for the first time, with its route."""
    seen: set[tuple[str, str]] = set()
    for route in routes:
        if not isinstance(route, Route):
            continue
        path = _PART.sub(r"{\1}", route.path)
        for method in sorted(_METHODS & set(route.methods or ())):
            if (path, method) not in seen:
                seen.add((path, method))
                yield path, method, route


def short(path: str) -> str:
    """Return a path as the table has it."""
    return path.removeprefix(f"{PREFIX}/")


def _operation(path: str, route: Route, operation: Operation, role: str | None) -> Schema:
    words = inspect.getdoc(route.endpoint) or ""
    found: Schema = {
        "summary": words.split("\n", 1)[0],
        "description": f"{words}\n\nRole: {role or 'none, it is open'}.",
        "parameters": [*_of_path(path), *map(_parameter, operation.parameters)],
        "responses": _responses(operation),
        "security": [{"key": list[str]()}] if role is not None else [],
    }
    if operation.body is not None:
        found["requestBody"] = {"required": operation.needs_body, "content": _body(operation.body)}
    return found


def _of_path(path: str) -> Iterator[Schema]:
    for name in _PART.findall(path):
        of = short(path).split("/", 1)[0] if name == "id" else name
        schema = PATHS.get(of, {"type": "string", "minLength": 1})
        yield {"name": name, "in": "path", "required": True, "schema": dict(schema)}


def _parameter(parameter: Parameter) -> Schema:
    return {"name": parameter.name, "in": parameter.where, "schema": dict(parameter.schema)}


def _responses(operation: Operation) -> Schema:
    content: Schema = {media: {"schema": {}} for media in operation.also}
    if operation.answer is not None:
        content = {JSON: {"schema": _ref(operation.answer)}} | content
    refused = {"description": "Refused.", "content": {JSON: {"schema": _ref(Refusal)}}}
    given = {"description": "Done.", "content": content}
    unready = given if operation.unready else refused
    return {str(operation.status): given, "4XX": refused, "503": unready}


def _body(body: type[BaseModel] | str) -> Schema:
    if body == DOCUMENTS:
        document = {"$ref": _REF.format(model="Document")}
        return {JSON: {"schema": document}, YAML: {"schema": document}}
    if body == EDIT_SET:
        edit_set = {"$ref": _REF.format(model="EditSet")}
        return {JSON: {"schema": {"anyOf": [edit_set, _solving(edit_set)]}}}
    return {JSON: {"schema": _ref(body) if isinstance(body, type) else {}}}


def _solving(edit_set: Schema) -> Schema:
    """Return the schema of an edit set with what is asked beside it."""
    beside = {"$ref": _REF.format(model="Solving")}
    document = {"properties": {"document": edit_set}, "required": ["document"]}
    return {"type": "object", "allOf": [beside, document]}


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas() -> Schema:
    """Return every schema that is referred to, by name."""
    answers = {operation.answer for operation in OPERATIONS.values()} - {None}
    taken = {o.body for o in OPERATIONS.values() if isinstance(o.body, type)}
    shapes: list[tuple[type[BaseModel], Any]] = [(Refusal, "serialization")]
    shapes += [(answer, "serialization") for answer in answers if answer is not None]
    shapes += [(body, "validation") for body in (*taken, Solving)]
    _, found = models_json_schema(shapes, ref_template=_REF)
    schemas: Schema = found["$defs"]
    del schemas["Solving"]["additionalProperties"]  # its fields stand beside the document
    document = _moved(json_schema())
    kinds = document.pop("$defs")
    return schemas | kinds | {"Document": {k: v for k, v in document.items() if k != "$schema"}}


def _moved(schema: Mapping[str, Any]) -> Schema:
    """Return a schema whose references lead to where OpenAPI keeps schemas."""
    return {name: _moved_part(part) for name, part in schema.items()}


def _moved_part(part: Any) -> Any:
    if isinstance(part, Mapping):
        return _moved(part)
    if isinstance(part, list):
        return [_moved_part(item) for item in part]
    return part.replace("#/$defs/", "#/components/schemas/") if isinstance(part, str) else part


def _version() -> str:
    try:
        return version("trimtab")
    except PackageNotFoundError:
        return "unknown"
