"""YAML 1.2 with places: what is read, what is refused, and where the fault is."""

from pathlib import Path
from typing import Any

import pytest

from service.documents import DocumentsError, load_paths, parse_content, parse_documents
from service.schemas import Binding, Policy
from service.yaml_reader import MAX_DOCUMENT_BYTES, YamlError, plain, read_yaml

GOOD = """\
# A comment.
apiVersion: trimtab/v1
kind: Policy
metadata: {name: careful, description: polite}
spec:
  mode: off
  strength: {default: 1, min: 0, max: 2}
  steer:
    - {direction: formal, coefficient: 1}
    - direction: refusal
      coefficient: {0: 1, 0x3: .5}
      at: resid_post.3
      tokens: {from: 2}
---
apiVersion: trimtab/v1
kind: Binding
metadata: {name: default}
spec: {mandatory: [guard], policy: careful, choices: [formal, none]}
---
"""


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentsError) as raised:
        parse_documents(text, "p.yaml")
    return [str(problem) for problem in raised.value.problems]


def value(text: str) -> Any:
    (root,) = read_yaml(text)
    return plain(root)


def test_several_documents_in_a_file() -> None:
    policy, binding = parse_documents(GOOD, "p.yaml")
    assert isinstance(policy.model, Policy)
    assert isinstance(binding.model, Binding)
    assert policy.model.spec.mode == "off"
    assert policy.model.spec.steer[1].coefficient == {0: 1.0, 3: 0.5}
    assert (policy.kind, policy.name, binding.key) == ("Policy", "careful", ("Binding", "default"))


def test_layout_comments_and_written_defaults_do_not_change_the_digest() -> None:
    terse = (
        '{"apiVersion": "trimtab/v1", "kind": "Policy", "metadata": {"description": "polite", '
        '"name": "careful"}, "spec": {"mode": "off", "selectable": true, "strength": {"max": 2}, '
        '"steer": [{"direction": "formal", "coefficient": 1.0}, {"direction": "refusal", '
        '"at": ["resid_post.3"], "coefficient": {"3": 0.5, "0": 1}, "tokens": {"from": 2}}]}}'
    )
    (one,) = parse_documents(terse, "other.yaml")
    assert one.digest == parse_documents(GOOD, "p.yaml")[0].digest
    assert parse_content(one.content).digest == one.digest


def test_any_change_of_content_changes_the_digest() -> None:
    before = parse_documents(GOOD)[0].digest
    assert parse_documents(GOOD.replace(".5", ".25"))[0].digest != before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("strength:", "strenght:", "p.yaml:7:3: spec.strenght: unknown field 'strenght'; did you"),
        ("coefficient: 1}", "coeficient: 1}", "p.yaml:9:27: spec.steer[0].coeficient: unknown"),
        ("{from: 2}", "{form: 2}", "p.yaml:13:15: spec.steer[1].tokens.from: field 'from' is mi"),
        ("mode: off", "mode: of", "p.yaml:6:9: spec.mode: 'of' is not one of 'off', 'shadow' or"),
        ("mode: off", "mode: false", "p.yaml:6:9: spec.mode: False is not one of"),
        ("name: careful", "name: Careful", "p.yaml:4:18: metadata.name: 'Careful' is not a name"),
        ("default: 1", "default: 9", "p.yaml:7:13: spec.strength: 'default' 9 is outside"),
        (".5}", ".nan}", "p.yaml:11:32: spec.steer[1].coefficient[3]: NaN and infinity"),
        (".5}", "1e999}", "p.yaml:11:32: spec.steer[1].coefficient[3]: NaN and infinity"),
        ("0: 1,", "-1: 1,", "p.yaml:11:21: spec.steer[1].coefficient[-1]: must be greater"),
        ("direction: refusal", "value: 3", "p.yaml:10:7: spec.steer[1]: an entry steers one"),
        ("kind: Policy", "kind: Monitor", "p.yaml:6:3: spec.read: field 'read' is missing"),
        ("kind: Policy", "kind: EditSet", "p.yaml:6:3: spec.facts: field 'facts' is missing"),
        ("kind: Policy", "kind: Polcy", "p.yaml:3:7: kind: kind 'Polcy' is not known"),
        ("kind: Policy\n", "", "p.yaml:2:1: field 'kind' is missing"),
        ("trimtab/v1", "trimtab/v2", "p.yaml:2:13: apiVersion: 'trimtab/v2' is not one of"),
        ("name: default", "name: team-a", "p.yaml:15:1: spec.for says whose requests"),
        ("mandatory: [guard]", "mandatory: [careful]", "p.yaml:18:7: spec: 'careful' is mandat"),
    ],
)
def test_each_fault_has_its_place_and_its_remedy(old: str, new: str, expected: str) -> None:
    found = problems(GOOD.replace(old, new, 1))
    assert any(line.startswith(expected) for line in found), found


def test_all_faults_of_a_file_are_reported_at_once() -> None:
    text = GOOD.replace("mode: off", "mode: of").replace("coefficient: 1}", "op: clamp}")
    text = text.replace("name: default", "name: other")
    assert [line.split(": ")[1].split(" says")[0] for line in problems(text)] == [
        "spec.mode",
        "spec.steer[0]",
        "spec.for",
    ]


def test_unknown_fields_without_a_near_one_list_the_fields_there() -> None:
    (line,) = problems(GOOD.replace("{from: 2}", "{from: 2, zebra: 1}"))
    assert line.endswith("unknown field 'zebra'; fields here: from")


def test_a_name_given_twice_is_refused() -> None:
    assert problems(GOOD + GOOD.split("---")[0])[0].startswith("p.yaml:23:18: metadata.name: a Pol")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "p.yaml:1:5: not YAML"),
        ("a: b: c", "p.yaml:1:5: not YAML"),
        ("a: 1\na: 2", "p.yaml:2:1: key 'a' is given twice"),
        ("a: \x01", "p.yaml:1:4: a character that YAML does not allow: '\\x01'"),
        ("- 1", "p.yaml:1:1: a document is a mapping"),
        ("a: *b", "p.yaml:1:4: alias *b names no finished value"),
        ("a: &a [*a]", "p.yaml:1:8: alias *a names no finished value"),
        ("<<: {a: 1}", "p.yaml:1:1: merge keys"),
        ("a: !!python/name:os.system", "p.yaml:1:4: tags such as tag:yaml.org,2002:python"),
        ("a: !!str 3", "p.yaml:1:4: tags such as tag:yaml.org,2002:str"),
        ("%YAML 1.1\n---\na: off", "p.yaml:2:1: only YAML 1.2"),
        ("null: 1", "p.yaml:1:1: a key is a field, a name or a layer number"),
        ("[1]: 1", "p.yaml:1:1: a key is a field, a name or a layer number"),
        ("a: " + "9" * 65, "p.yaml:1:4: a number of more than 64 characters"),
        ("[" * 40, "p.yaml:1:33: nested deeper than 32 levels"),
        ("a: [" + "1," * 60_000 + "]", "p.yaml:1:"),
        ("a: " + "y" * MAX_DOCUMENT_BYTES, "p.yaml:1:4: a document is larger than"),
        (b"a: 1\nb: \xff", "p.yaml:2: not UTF-8"),
    ],
)
def test_what_is_not_read_is_refused_with_its_place(text: str | bytes, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    lines = ["b0: &b0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"b{i}: &b{i} [{','.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 20)]
    (root,) = read_yaml("\n".join(lines))
    with pytest.raises(YamlError, match="expand to too much"):
        plain(root)


def test_aliases_in_moderation_are_read() -> None:
    assert value("a: &x {b: 1}\nc: [*x, *x]") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-0", 0),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("2026-11-20", "2026-11-20"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("|\n 12\n", "12\n"),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    (read,) = value("a: " + text).values()
    assert (read, type(read)) == (expected, type(expected))


def test_empty_texts_have_no_documents() -> None:
    assert parse_documents("") == parse_documents("# nothing\n") == parse_documents("---\n") == ()


def test_a_byte_order_mark_is_read() -> None:
    assert len(parse_documents(b"\xef\xbb\xbf" + GOOD.encode())) == 2


def test_names_given_twice_across_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yml").write_text(GOOD.replace("polite", "other"))
    (tmp_path / ".hidden.yaml").write_text("nonsense: [")
    with pytest.raises(DocumentsError) as raised:
        load_paths([tmp_path])
    assert [p.source for p in raised.value.problems] == [str(tmp_path / "b.yml")] * 2


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(DocumentsError, match="cannot be read: No such file"):
        load_paths([tmp_path / "absent.yaml"])


@pytest.mark.parametrize("kind", [{}, [], 3, True])
def test_a_kind_that_is_no_text_is_refused_in_words(kind: object) -> None:
    content = {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": "a"}, "spec": {}}
    with pytest.raises(DocumentsError, match="kind"):
        parse_content(content)
