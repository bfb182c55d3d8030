"""What is to be active: whose artifact a name means."""

from dataclasses import replace
from pathlib import Path

import pytest

from forward.fingerprint import ModelFingerprint
from service.artifacts import ArtifactLibrary
from service.desired import compile_desired, wanted_now
from service.directory import load_directory
from service.documents import parse_documents
from service.store import Store
from steering.card import to_artifact
from steering.library import save_direction
from tests.steering.toys import MODEL, random_direction

DIRECTION = random_direction(3)
SERVED = ModelFingerprint(MODEL, "llama", 16, 3)

POLICY = """
apiVersion: trimtab/v1
kind: Policy
metadata: {name: NAME}
spec: {steer: [{direction: DIRECTION}]}
"""


def policy(name: str) -> str:
    """Return a policy that names the direction."""
    return POLICY.replace("NAME", name).replace("DIRECTION", DIRECTION.name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of its own."""
    return Store.open(str(tmp_path / "state"))


def test_what_is_posted_does_not_change_what_a_file_says(tmp_path: Path, store: Store) -> None:
    """A newer artifact of the same name is a posted policy's, never the directory's."""
    folder = tmp_path / "policies"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "filed.yaml").write_text(policy("filed"))
    save_direction(DIRECTION, folder / "artifacts")
    directory, library = load_directory(folder), ArtifactLibrary(store)
    library.adopt(directory.artifacts_folder)
    other = to_artifact(replace(-DIRECTION, name=DIRECTION.name))
    other.save(tmp_path / "other")
    store.add_artifact(tmp_path / "other" / f"{other.digest}.safetensors", other.card)
    posted = parse_documents(policy("posted"))
    desired = compile_desired(wanted_now(store, library, directory, posted), library, SERVED)
    pinned = {p.document.name: p.artifacts[DIRECTION.name] for p in desired.planned}
    assert pinned == {"filed": to_artifact(DIRECTION).digest, "posted": other.digest}
    assert desired.policies["filed"].digest != desired.policies["posted"].digest
