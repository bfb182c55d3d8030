"""Steering: directions from contrast pairs, their algebra and files, and their lowering to rows.

A direction is a value (``steering.direction``); a policy's operations on directions become the
contents of table rows (``steering.lower``). Knows no engine and no policy document.
"""
