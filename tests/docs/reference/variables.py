"""The environment variables that Trimtab reads."""

from service import settings
from tests.docs.reference.table import code, table

VARIABLES = (
    (
        settings.ADMIN_KEY,
        "serve, commands",
        "The operator's key: every right. Without it a server on loopback makes one and prints it.",
    ),
    (settings.KEY, "commands", "The key that the commands send, in the place of the admin key."),
    (settings.URL, "commands", f"The server that they ask; {settings.DEFAULT_URL} unless given."),
    (
        settings.ARTIFACTS_FOLDER,
        "serve, commands with --state",
        "Where the store keeps its artifacts; a folder beside its database unless given. "
        "Servers of one PostgreSQL store share it.",
    ),
    ("TRIMTAB_API_KEY", "edit evaluate", "The key for inference of a server that needs one."),
)
_ABOUT = (
    "Everything else that a server is started with is an option of "
    "[trimtab serve](commands.md#trimtab-serve); vLLM's own variables apply, except where start-up "
    "refuses one by name."
)


def page() -> str:
    """Return the page."""
    rows = [(code(name), where, words) for name, where, words in VARIABLES]
    return "\n".join(["# Environment", "", _ABOUT, "", *table(("", "read by", ""), rows), ""])
