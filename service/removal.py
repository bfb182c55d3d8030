"""What must hold before a document is edited or removed over the API."""

from service.catalog import Catalog, CatalogError, check_post
from service.explain import did_you_mean
from service.records import Key


def check_policy(catalog: Catalog, name: str) -> None:
    """Refuse a name that no active policy has.

    Raises:
        CatalogError: With status 404.
    """
    if name not in catalog.policies:
        guess = did_you_mean(name, catalog.policies)
        raise CatalogError(f"there is no policy '{name}'{guess}", 404, "policy_not_found")


def check_monitor(catalog: Catalog, name: str) -> None:
    """Refuse a name that no active monitor has.

    Raises:
        CatalogError: With status 404.
    """
    if name not in catalog.monitors:
        guess = did_you_mean(name, catalog.monitors)
        raise CatalogError(f"there is no monitor '{name}'{guess}", 404, "monitor_not_found")


def check_monitor_removal(catalog: Catalog, name: str, file: str | None = None) -> None:
    """Refuse to remove a monitor that is not there, is the directory's, or is used.

    Raises:
        CatalogError: With status 404 or 409.
    """
    check_monitor(catalog, name)
    check_post(catalog, ("Monitor", name), file)
    users = ", ".join(policy.name for policy in catalog.users_of(name))
    if users:
        message = f"monitor '{name}' is used by policy {users}: change that first"
        raise CatalogError(message, 409, "monitor_in_use")


def check_edit_removal(catalog: Catalog, name: str, file: str | None = None) -> None:
    """Refuse to remove an edit set that is not there, is the directory's, or is used.

    Raises:
        CatalogError: With status 404 or 409.
    """
    if name not in catalog.edits:
        guess = did_you_mean(name, catalog.edits)
        raise CatalogError(f"there is no edit set '{name}'{guess}", 404, "edit_not_found")
    check_post(catalog, ("EditSet", name), file)
    users = ", ".join(policy.name for policy in catalog.edited_by(name))
    if users:
        message = f"edit set '{name}' is used by policy {users}: change that first"
        raise CatalogError(message, 409, "edit_in_use")


def check_binding(catalog: Catalog, name: str) -> None:
    """Refuse a name that no active binding has.

    Raises:
        CatalogError: With status 404.
    """
    known = catalog.bindings.by_name
    if name not in known:
        guess = did_you_mean(name, known)
        raise CatalogError(f"there is no binding '{name}'{guess}", 404, "binding_not_found")


def check_binding_removal(catalog: Catalog, name: str, file: str | None = None) -> None:
    """Refuse to remove a binding that is not there or is the directory's.

    Raises:
        CatalogError: With status 404 or 409.
    """
    check_binding(catalog, name)
    check_post(catalog, ("Binding", name), file)


def check_policy_removal(catalog: Catalog, name: str, file: str | None = None) -> None:
    """Refuse to remove a policy that is not there, is the directory's, or is bound.

    Raises:
        CatalogError: With status 404 or 409.
    """
    check_policy(catalog, name)
    check_post(catalog, ("Policy", name), file)
    users = ", ".join(catalog.bindings.naming(name))
    if users:
        message = f"policy '{name}' is named by binding {users}: change that first"
        raise CatalogError(message, 409, "policy_in_use")


def check_removal(catalog: Catalog, key: Key, file: str | None = None) -> None:
    """Refuse to remove a document of any kind that is not there, the directory's, or in use.

    Raises:
        CatalogError: With status 404 or 409.
    """
    kind, name = key
    checks = {
        "Policy": check_policy_removal,
        "Monitor": check_monitor_removal,
        "EditSet": check_edit_removal,
        "Binding": check_binding_removal,
    }
    checks[kind](catalog, name, file)
