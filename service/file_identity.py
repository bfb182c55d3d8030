"""Which file lies at a path, and whether it is still there."""

from pathlib import Path


class FileGoneError(Exception):
    """The file of a database is not where it was opened any more."""


class FileIdentity:
    """Which file lies at a path.

    An open connection goes on with a file that was moved, removed or replaced, and what it writes
    there is lost to whoever opens the path next.
    """

    def __init__(self, path: Path) -> None:
        """Take the file that is there now for the right one."""
        self._path, self._expected = path, self._found(path)

    def check(self) -> None:
        """Find the same file there.

        Raises:
            FileGoneError: It is not there, or another one is.
        """
        found = self._found(self._path)
        if found is None:
            raise FileGoneError(f"the store's file {self._path} is gone: put it back where it was")
        if found != self._expected:
            raise FileGoneError(
                f"the store's file {self._path} was replaced by another one: put it back, or start "
                "the server again to use the new one"
            )

    @staticmethod
    def _found(path: Path) -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
