"""What can go wrong while a model is made ready in a worker."""


class SiteInstallError(RuntimeError):
    """A site could not be put into the model."""
