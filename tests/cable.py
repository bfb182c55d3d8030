"""A cable between a server and its database, which a test can pull: a relay of Unix sockets."""

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import Self

NAME = ".s.PGSQL.5432"
_CHUNK = 1 << 16


class Cable:
    """Relays connections to PostgreSQL's socket in a folder, until it is pulled."""

    def __init__(self, to: Path) -> None:
        """Listen in a folder of its own."""
        self._to = to / NAME
        self._folder = tempfile.TemporaryDirectory(prefix="trimtab-cable-")
        self.folder = Path(self._folder.name)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.folder / NAME))
        self._listening.listen(128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._pulled = False
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        """Cut every connection, and let no new one through."""
        with self._lock:
            self._pulled = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def plug(self) -> None:
        """Let new connections through again."""
        with self._lock:
            self._pulled = False

    def __enter__(self) -> Self:
        """Return the cable."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cut it for good."""
        self.pull()
        self._listening.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            with self._lock:
                if self._pulled:
                    return
                self._open |= {near, far}
            try:
                far.connect(str(self._to))
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join()
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {near, far}


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either end is closed, and close the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
