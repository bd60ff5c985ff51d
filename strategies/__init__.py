"""The built-in strategies, one module each; plug-ins register theirs through the same entry points."""
