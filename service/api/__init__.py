"""The HTTP layer: who may call what, which policy a request runs under, and the operations API."""
