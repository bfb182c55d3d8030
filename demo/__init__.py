"""The model organism: a generated world, the language of it, and the checkpoint trained on both."""
