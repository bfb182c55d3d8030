"""The service: who asked for what, under which policy."""
