"""What an inference request asks of us: our fields are taken out of its body, strictly."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from service.api.errors import HttpError
from service.api.json_body import load_json
from service.callers import ANONYMOUS, Caller
from service.catalog import Catalog
from service.engine.stamp import STAMP_KEY
from service.explain import did_you_mean, shown
from service.selection import HEADER, Selection, parse_model, select

MAX_BODY_BYTES = 8 << 20

Fields = dict[str, Any]

_WORKER_ARGUMENTS = (
    ("vllm_xargs",),
    ("extra_args",),
    ("sampling_params", "extra_args"),
    ("sampling_params", "vllm_xargs"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request without our fields, and what they said.

    Attributes:
        fields: The body that vLLM gets.
        selection: The policies.
        wants_object: Whether the answer is to carry the ``trimtab`` object.
    """

    fields: Fields
    selection: Selection
    wants_object: bool

    @property
    def body(self) -> bytes:
        """The body's bytes: always written anew, so that vLLM reads just what was checked."""
        return json.dumps(self.fields).encode()


def parse_fields(body: bytes) -> Fields | None:
    """Return the fields of a JSON object; None for what vLLM refuses by itself.

    Raises:
        HttpError: 400, it is nested too deeply.
    """
    try:
        parsed = load_json(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def read_choice(
    fields: Fields,
    headers: Headers,
    catalog: Catalog,
    models: Iterable[str],
    caller: Caller = ANONYMOUS,
    request: str = "",
) -> Asked:
    """Take our fields out of a body and select the policies.

    Args:
        fields: The body.
        headers: The headers.
        catalog: The snapshot that the request is to keep.
        models: As in ``parse_model``.
        caller: Whose request it is.
        request: The request's own name.

    Raises:
        HttpError: 400, a field of ours is malformed or a worker argument is forged.
        SelectionError: The choice is refused.
    """
    _refuse_forged(fields)
    kept = dict(fields)
    policy, strength = kept.pop("policy", None), kept.pop("strength", None)
    wants_object = _wants_object(kept.pop("trimtab", None))
    alias = None
    if isinstance(kept.get("model"), str):
        kept["model"], alias = parse_model(kept["model"], models)
    header = _header(headers)
    selection = select(catalog, alias, policy, header, strength, caller=caller, request=request)
    return Asked(kept, selection, wants_object)


def refuse_outliving(fields: Mapping[str, Any]) -> None:
    """Refuse an answer that is made after its request has ended: no rows are kept for it.

    Raises:
        HttpError: 400.
    """
    if fields.get("background") not in (None, False):
        message = "an answer in the background outlives its policy: leave 'background' out"
        raise HttpError(400, "background_not_served", message, "background")


def asks_beam_search(fields: Mapping[str, Any]) -> bool:
    """Whether vLLM may read the body as asking for beam search: all but a plain no counts."""
    return fields.get("use_beam_search") not in (None, False)


def beam_search_refused() -> HttpError:
    """Return the refusal of beam search under a policy that treats or watches tokens."""
    message = (
        "beam search submits generated tokens again as a prompt, so a policy that treats prompt "
        "and generation differently cannot be kept, nor monitors that act: use sampling, or a "
        "policy with tokens: all and without them"
    )
    return HttpError(400, "beam_search_refused", message, "use_beam_search")


def _refuse_forged(fields: Fields) -> None:
    for path in _WORKER_ARGUMENTS:
        found: object = fields
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict) and STAMP_KEY in found:
            place = ".".join((*path, STAMP_KEY))
            message = f"'{place}' is the server's own: choose a policy with the field 'policy'"
            raise HttpError(400, "forged_argument", message, place)


def _wants_object(given: object) -> bool:
    if given is None:
        return False
    if not isinstance(given, dict):
        message = f"'trimtab' is an object such as {{\"scores\": true}}, not {shown(given)}"
        raise HttpError(400, "invalid_options", message, "trimtab")
    for name, value in given.items():
        if name != "scores":
            guess = did_you_mean(name, ["scores"])
            message = f"unknown field {shown(name)} in 'trimtab'{guess or '; it has: scores'}"
            raise HttpError(400, "invalid_options", message, f"trimtab.{name}")
        if not isinstance(value, bool):
            message = f"'trimtab.scores' is true or false, not {shown(value)}"
            raise HttpError(400, "invalid_options", message, "trimtab.scores")
    return True


def _header(headers: Headers) -> str | None:
    given = sorted({value.strip() for value in headers.getlist(HEADER)})
    if len(given) > 1:
        message = f"the header {HEADER} names different policies ({', '.join(given)}): name one"
        raise HttpError(400, "conflicting_policies", message, HEADER)
    return given[0] if given else None
