"""Training recipes of the bundled models: ``python -m zoo`` trains and exports all of them.

Not part of the wheel, which has only the weights.
"""
