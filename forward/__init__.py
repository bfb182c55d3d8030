"""The forward pass: hook points, sites and their arithmetic, token rows, artifacts.

Knows no engine and no policy. The same site runs on a Hugging Face model and inside vLLM.
"""
