"""The catalog: snapshots that never change, owners, and references that hold."""

from collections.abc import Callable, Iterator

import pytest

from service.bindings import BindingError
from service.catalog import (
    Catalog,
    CatalogError,
    OwnershipError,
    advance,
    check_post,
    merge,
)
from service.documents import Document
from service.removal import check_monitor_removal, check_removal
from service.store import Store

Make = Callable[..., Document]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.ephemeral() as opened:
        yield opened


def test_the_implicit_binding_leaves_everything_to_the_client() -> None:
    binding = Catalog().binding
    assert (binding.spec.mandatory, binding.spec.policy, binding.spec.choices) == ((), "none", None)
    assert (binding.revision, binding.owner, Catalog().generation) == (0, None, 0)


def test_a_new_snapshot_says_what_changed_and_leaves_the_old_one_alone(
    store: Store, policy: Make
) -> None:
    a1, b1 = (store.record(policy(name), {}, "api") for name in ("a", "b"))
    first, changes = advance(Catalog(), [b1, a1])
    assert [p.label for p in changes.changed] == ["a@1", "b@1"]
    a2 = store.record(policy("a", mode="shadow"), {}, "api")
    c1 = store.record(policy("c"), {}, "directory")
    second, changes = advance(first, [a2, c1])
    assert [p.label for p in changes.changed] == ["a@2", "c@1"]
    assert [p.label for p in changes.removed] == ["b@1"]
    assert not changes.bindings
    assert (list(first.policies), list(second.policies)) == (["a", "b"], ["a", "c"])
    assert first.policies["a"].applied
    assert not second.policies["a"].applied
    assert (first.generation, second.generation) == (1, 2)
    with pytest.raises(TypeError):
        first.policies["x"] = first.policies["a"]  # type: ignore[index]


def test_nothing_changed_is_the_same_snapshot(store: Store, policy: Make) -> None:
    revision = store.record(policy("a"), {"x": "d"}, "api")
    catalog, _ = advance(Catalog(), [revision])
    again, changes = advance(catalog, [store.record(policy("a"), {"x": "d"}, "api")])
    assert again is catalog
    assert not changes


def test_a_changed_artifact_alone_is_a_change(store: Store, policy: Make) -> None:
    catalog, _ = advance(Catalog(), [store.record(policy("a"), {"x": "d1"}, "api")])
    after, changes = advance(catalog, [store.record(policy("a"), {"x": "d2"}, "api")])
    assert [p.label for p in changes.changed] == ["a@2"]
    assert after.policies["a"].digest == catalog.policies["a"].digest


def test_a_changed_binding_is_a_change(store: Store, policy: Make, binding: Make) -> None:
    a = store.record(policy("a"), {}, "api")
    catalog, _ = advance(Catalog(), [a])
    bound, changes = advance(catalog, [a, store.record(binding(mandatory=["a"]), {}, "api")])
    assert changes.bindings or changes.removed_bindings
    assert not changes.changed
    assert bound.binding.spec.mandatory == ("a",)
    unbound, changes = advance(bound, [a])
    assert changes.bindings or changes.removed_bindings
    assert unbound.binding == Catalog().binding


@pytest.mark.parametrize(
    "spec",
    [
        {"mandatory": ["formel"]},
        {"policy": "formel"},
        {"choices": ["none", "formel"]},
    ],
)
def test_a_binding_to_an_unknown_policy_is_refused(
    store: Store, policy: Make, binding: Make, spec: dict[str, object]
) -> None:
    revisions = [store.record(d, {}, "api") for d in (policy("formal"), binding(**spec))]
    with pytest.raises(BindingError, match="did you mean 'formal'") as raised:
        advance(Catalog(), revisions)
    assert raised.value.status == 400


def test_the_directory_owns_its_names(store: Store, policy: Make, binding: Make) -> None:
    documents = {"directory": [policy("a"), binding(policy="a")], "api": [policy("b")]}
    merged = merge(documents["directory"], documents["api"])
    revisions = [store.record(owned.document, {}, owned.owner) for owned in merged.values()]
    catalog, _ = advance(Catalog(), revisions)
    check_post(catalog, ("Policy", "b"))
    check_post(catalog, ("Policy", "new"))
    for key in (("Policy", "a"), ("Binding", "default")):
        with pytest.raises(OwnershipError, match="owned by the policy directory") as raised:
            check_post(catalog, key)  # type: ignore[arg-type]
        assert raised.value.status == 409


def test_a_file_takes_over_a_posted_name(policy: Make) -> None:
    posted, filed = policy("a", mode="off"), policy("a")
    merged = merge([filed], [posted, policy("b")])
    assert {key[1]: owned.owner for key, owned in merged.items()} == {"a": "directory", "b": "api"}
    assert merged["Policy", "a"].document == filed


def test_only_policies_that_nothing_needs_can_be_removed(
    store: Store, policy: Make, binding: Make
) -> None:
    api = [policy("bound"), policy("free"), binding(choices=["bound"])]
    merged = merge([policy("filed")], api)
    catalog, _ = advance(
        Catalog(), [store.record(owned.document, {}, owned.owner) for owned in merged.values()]
    )
    check_removal(catalog, ("Policy", "free"))
    for name, status in (("bound", 409), ("filed", 409), ("fre", 404)):
        with pytest.raises(CatalogError) as raised:
            check_removal(catalog, ("Policy", name))
        assert raised.value.status == status


def test_monitors_have_revisions_of_their_own(store: Store, policy: Make, monitor: Make) -> None:
    first, changes = advance(Catalog(), [store.record(monitor("harm"), {"probe/p": "d1"}, "api")])
    assert [(m.name, m.revision) for m in changes.changed_monitors] == [("harm", 1)]
    assert not changes.changed
    assert first.owner(("Monitor", "harm")) == "api"
    assert first.owner(("Policy", "harm")) is None
    pinned = store.record(monitor("harm"), {"probe/p": "d2"}, "api")
    second, changes = advance(first, [pinned, store.record(policy("harm"), {}, "api")])
    assert [m.revision for m in changes.changed_monitors] == [2]
    assert second.monitors["harm"].artifacts == {"probe/p": "d2"}
    third, changes = advance(second, [])
    assert [m.name for m in changes.removed_monitors] == ["harm"]
    assert third.monitors == {}
    assert first.monitors["harm"].revision == 1


def test_only_monitors_that_no_policy_names_can_be_removed(
    store: Store, policy: Make, monitor: Make
) -> None:
    use = {"mode": "off", "fpr": 0.01, "do": "log"}
    api = [monitor("used"), monitor("free"), policy("user", monitors={"used": use})]
    merged = merge([monitor("filed")], api)
    catalog, _ = advance(
        Catalog(), [store.record(owned.document, {}, owned.owner) for owned in merged.values()]
    )
    check_monitor_removal(catalog, "free")
    for name, status, says in (
        ("used", 409, "used by policy user"), ("filed", 409, "watch.yaml"), ("fre", 404, "'free'?"),
    ):  # fmt: skip
        with pytest.raises(CatalogError, match=says) as raised:
            check_monitor_removal(catalog, name, "watch.yaml")
        assert raised.value.status == status
