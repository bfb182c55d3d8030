"""Where a model is: a folder here, or a copy of what the hub has. One rule for every command.

What is fetched must not depend on who asks: a calibration is bound to tokenizer and chat template,
and both are files of the checkpoint.
"""

from pathlib import Path

from service.errors import ServiceError

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


class NoCheckpointError(ServiceError):
    """A model that is neither a folder here nor on the hub."""


def checkpoint_folder(model: str) -> Path:
    """Return the folder of a checkpoint: itself, or the hub's copy, fetched if need be.

    Raises:
        NoCheckpointError: There is no such folder, and the hub does not give such a model.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # slow, and seldom needed

    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        raise NoCheckpointError(
            f"'{model}' is no folder here and could not be had from the hub ({error}); give the "
            "path of a checkpoint folder"
        ) from error
