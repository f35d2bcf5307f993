"""Isogon: distil a vision model, prove the copy, know when not to trust it."""
