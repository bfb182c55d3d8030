"""What a server refuses to serve with, or ends with, beside the errors of the service itself."""

from forward.tables import CapacityError
from service.engine.books import ActivationError
from service.engine.channel import ChannelError
from service.engine.engine import BootError
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.refusals import RefusedOptionError
from service.engine.stopping import EngineDiedError, ProcessDiedError

BOOT_REFUSALS = (
    RefusedOptionError,
    BootError,
    ChannelError,
    CapacityError,
    ActivationError,
    MergeError,
    WeightsUnknownError,
    EngineDiedError,
    ProcessDiedError,
)
"""An operator reads their words; anything else is a fault of ours, with its traceback."""
