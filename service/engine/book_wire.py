"""What API processes say to the one that keeps the books, and what it answers.

Messages are msgpack with their length before them, on a Unix-domain socket in a folder that only
the server's own user may enter.
"""

import asyncio
import struct

import msgspec

PATH_NAME = "books"
MAX_BYTES = 1 << 30
"""Far more than a program of all tables; more is no message."""
_LENGTH = struct.Struct(">I")

Column = tuple[str, str, int]
"""A watched read: hook point, digest, and where its score is among the exported ones."""


class Hello(msgspec.Struct, tag=True, array_like=True):
    """The first word of process number ``process``."""

    process: int


class Serves(msgspec.Struct, tag=True, array_like=True):
    """The process answers requests from now on; not answered."""


class Place(msgspec.Struct, tag=True, array_like=True):
    """Book a program (as ``program_wire`` has it); answered by ``Placed`` or ``Refused``."""

    call: int
    program: bytes


class Check(msgspec.Struct, tag=True, array_like=True):
    """Say whether programs would all fit; answered by ``Fits`` or ``Refused``."""

    call: int
    programs: list[bytes]


class Release(msgspec.Struct, tag=True, array_like=True):
    """Take programs off the books, each as often as it is named; not answered."""

    digests: list[str]


class Welcome(msgspec.Struct, tag=True, array_like=True):
    """The first answer: how much there is, and how much is used."""

    size: dict[str, int]
    used: dict[str, int]


class Used(msgspec.Struct, tag=True, array_like=True):
    """How much is used by now, by all processes; sent whenever that changes."""

    used: dict[str, int]


class Placed(msgspec.Struct, tag=True, array_like=True):
    """Where a program is: the row of each region, and the columns of its watched reads."""

    call: int
    rows: list[int]
    columns: list[Column]


class Fits(msgspec.Struct, tag=True, array_like=True):
    """It would."""

    call: int


class Refused(msgspec.Struct, tag=True, array_like=True):
    """It is not done, and why; ``is_full`` if the tables cannot hold it."""

    call: int
    is_full: bool
    message: str


Asked = Hello | Serves | Place | Check | Release
Told = Welcome | Used | Placed | Fits | Refused

_encoder = msgspec.msgpack.Encoder()


class BookWireError(RuntimeError):
    """What came is no message."""


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next message; None at the end of the connection.

    Raises:
        BookWireError: It is longer than any message.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_BYTES:
            raise BookWireError(f"a message of {length} bytes: at most {MAX_BYTES} are sent")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write_message(writer: asyncio.StreamWriter, message: Asked | Told) -> None:
    """Queue a message."""
    data = _encoder.encode(message)
    writer.write(_LENGTH.pack(len(data)) + data)
