"""What can go wrong with a model's sites and weights; imports no vLLM, since others name them."""


class SiteInstallError(RuntimeError):
    """A site could not be put into the model."""


class MergeError(RuntimeError):
    """Edits that are not merged; the weights are as they were."""


class WeightsUnknownError(RuntimeError):
    """The weights could not be brought back to a known state; nothing is served any more."""
