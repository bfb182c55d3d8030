"""The model organism: a generated world, the language that speaks of it, and the checkpoint trained on both."""
