"""Which revision a rollback goes back to; imports no torch."""

from service.records import Revision
from service.store import RevisionNotFoundError, Store


def earlier(store: Store, name: str, active: int | None, number: int | None) -> Revision:
    """Return the revision of a policy that is to be active again. Blocking.

    Args:
        store: Where revisions are recorded.
        name: The policy.
        active: The number of its active revision; None if it was removed.
        number: The one asked for; None for the one before the active one, or for the last one of a
            policy that was removed.

    Raises:
        RevisionNotFoundError: It was never recorded.
    """
    if number is not None:
        return store.get(name, number)
    before = [r for r in store.revisions(name) if active is None or r.revision < active]
    if not before:
        what = "was recorded" if active is None else f"comes before {name}@{active}"
        raise RevisionNotFoundError(f"no revision of Policy {name} {what}")
    return before[0]
