"""Texts: UTF-8 in place of pixels. Inspection, near-duplicates, tokens, and the changes that a model has to bear."""
