"""The directory: a bad file keeps its last good documents, and says so."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from service.directory import DirectoryState, load_directory, watch

TEMPLATE = (
    "apiVersion: trimtab/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {{mode: {mode}}}\n"
)


def write(folder: Path, file: str, name: str, mode: str = "enforce") -> None:
    (folder / file).write_text(TEMPLATE.format(name=name, mode=mode))


def modes(state: DirectoryState) -> dict[str, str]:
    return {d.name: d.content["spec"]["mode"] for d in state.documents}


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b.yml", "b")
    write(tmp_path, "a.yaml", "a")
    write(tmp_path, ".c.yaml", "c")
    (tmp_path / "notes.txt").write_text("not read")
    (tmp_path / "artifacts").mkdir()
    state = load_directory(tmp_path)
    assert [document.name for document in state.documents] == ["a", "b"]
    assert (state.errors, state.artifacts_folder) == ((), tmp_path / "artifacts")


def test_a_bad_file_keeps_its_last_good_documents_and_touches_no_other(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a")
    write(tmp_path, "b.yaml", "b")
    good = load_directory(tmp_path)
    write(tmp_path, "a.yaml", "a", mode="of")
    write(tmp_path, "b.yaml", "b", mode="off")
    bad = load_directory(tmp_path, good)
    assert modes(bad) == {"a": "enforce", "b": "off"}
    (error,) = bad.errors
    assert (error.source, error.line, error.column) == (str(tmp_path / "a.yaml"), 4, 14)
    assert "did you mean 'off'" in error.message
    still = load_directory(tmp_path, bad)
    assert modes(still) == modes(bad)
    assert still.errors == bad.errors
    write(tmp_path, "a.yaml", "a", mode="shadow")
    mended = load_directory(tmp_path, still)
    assert (modes(mended), mended.errors) == ({"a": "shadow", "b": "off"}, ())


def test_at_first_a_bad_file_has_no_documents(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a", mode="of")
    state = load_directory(tmp_path)
    assert (state.documents, len(state.errors)) == ((), 1)


def test_a_file_removed_takes_its_documents_along_and_an_empty_one_does_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.yaml", "a")
    good = load_directory(tmp_path)
    (tmp_path / "a.yaml").write_text("")
    emptied = load_directory(tmp_path, good)
    assert (modes(emptied), len(emptied.errors)) == ({"a": "enforce"}, 1)
    write(tmp_path, "b.yaml", "b")
    (tmp_path / "a.yaml").unlink()
    removed = load_directory(tmp_path, load_directory(tmp_path, emptied))
    assert (modes(removed), removed.errors) == ({"b": "enforce"}, ())


def test_a_folder_that_is_emptied_takes_nothing_along(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a")
    good = load_directory(tmp_path)
    (tmp_path / "a.yaml").unlink()
    emptied = load_directory(tmp_path, good)
    assert modes(emptied) == {"a": "enforce"}
    assert "no policy file" in emptied.errors[0].message


def test_a_directory_that_goes_away_takes_nothing_along(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder, "a.yaml", "a")
    good = load_directory(folder)
    folder.rename(tmp_path / "moved")
    gone = load_directory(folder, good)
    assert (modes(gone), len(gone.errors)) == ({"a": "enforce"}, 1)
    (tmp_path / "moved").rename(folder)
    assert load_directory(folder, gone).errors == ()


def test_a_name_in_two_files_is_the_earlier_files(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "x", mode="off")
    first = load_directory(tmp_path)
    write(tmp_path, "a.yaml", "x", mode="shadow")
    both = load_directory(tmp_path, first)
    assert modes(both) == {"x": "shadow"}
    assert both.errors[0].message == "Policy 'x' is already in a.yaml"
    (tmp_path / "a.yaml").unlink()
    assert modes(load_directory(tmp_path, both)) == {"x": "off"}


def test_the_digest_is_of_contents_and_artifact_names(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a")
    before = load_directory(tmp_path).digest
    write(tmp_path, "a.yaml", "a")
    assert load_directory(tmp_path).digest == before
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "d.json").write_text("{}")
    assert load_directory(tmp_path).digest != before


async def _states(folder: Path, edits: list[Callable[[], None]]) -> list[DirectoryState]:
    """Apply each edit, and return the states that it led to."""
    watched = watch(load_directory(folder), poll=0.01, settle=0.01)
    seen: list[DirectoryState] = []
    for edit in edits:
        edit()
        seen.append(await asyncio.wait_for(anext(watched), timeout=30))
    return seen


def test_watching_yields_each_change_once(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a")
    edits: list[Callable[[], None]] = [
        lambda: write(tmp_path, "a.yaml", "a", mode="off"),
        lambda: write(tmp_path, "a.yaml", "a", mode="of"),
        lambda: write(tmp_path, "a.yaml", "a", mode="shadow"),
        lambda: (tmp_path / "a.yaml").unlink(),
    ]
    seen = asyncio.run(_states(tmp_path, edits))
    assert [modes(state) for state in seen] == [
        {"a": "off"},
        {"a": "off"},
        {"a": "shadow"},
        {"a": "shadow"},
    ]
    assert [len(state.errors) for state in seen] == [0, 1, 0, 1]
