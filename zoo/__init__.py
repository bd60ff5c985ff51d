"""The recipe of the bundled models: ``python -m zoo`` trains and exports all of them.

Not part of the wheel: users get the weights, whoever doubts them gets this.
"""
