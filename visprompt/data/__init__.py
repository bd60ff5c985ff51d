"""Where images and expressions come from: generated scenes and readers of published annotation files.

Nothing here imports torch, and nothing here knows about models or strategies. Import the module you need, for example
``from visprompt.data import scenes``; this file stays empty of code so that one reader never pays for another.
"""
