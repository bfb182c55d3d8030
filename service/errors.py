"""The base of every error that an operator or a client can cause."""


class ServiceError(Exception):
    """An expected failure; its text says what is wrong, why, and what to do instead."""
