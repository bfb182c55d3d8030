"""The reader goes on as in one terminal, and stops at what is not as the page says."""

from collections.abc import Iterator

import pytest

from tests.docs.page import Block
from tests.docs.reader import Reader, clone


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    with Reader(clone(folder / "trimtab"), folder, filled={"MODEL=a": "MODEL=b"}) as one:
        yield one


def sh(body: str, shown: str | None = None, status: int = 0) -> Block:
    return Block("page.md:1", "sh", body, shown, status)


def test_a_terminal_remembers_and_what_is_to_be_filled_in_is(reader: Reader) -> None:
    blocks = [sh("export MODEL=a\ntwice() { echo $1 $1; }\n"), sh("twice $MODEL\n", "b b\n")]
    assert reader.follow(blocks) == 2


def test_the_port_is_the_readers_own(reader: Reader) -> None:
    assert reader.follow([sh('echo "$TRIMTAB_URL"\n', "http://127.0.0.1:8000\n")]) == 1
    assert reader.port != 8000


def test_scripts_in_a_row_are_one(reader: Reader) -> None:
    first, second = (Block("page.md:1", "python", body) for body in ("a = 1\n", "print(a)\n"))
    assert reader.follow([first, second]) == 2
    with pytest.raises(AssertionError, match="NameError"):
        reader.follow([second])


def test_output_that_drifted_fails(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="the page shows:\none"):
        reader.follow([sh("echo two\n", "one\n")])


def test_a_command_that_fails_on_the_way_fails(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.follow([sh("false\necho on\n")])
    with pytest.raises(AssertionError, match="exit code 0"):
        reader.follow([sh("true\n", status=3)])
    assert reader.follow([sh("exit 3\n", status=3)]) == 1


def test_what_is_left_out_is_not_run(reader: Reader) -> None:
    assert reader.follow([Block("page.md:1", "sh", "false\n", left="it needs a GPU")]) == 0
