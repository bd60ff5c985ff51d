"""Data sets: generated scenes, and readers of published annotation files.

No module of this package imports torch, models or strategies. Import the module you need, for example ``from
visprompt.data import scenes``: this file imports nothing, so that one reader does not load the others.
"""
