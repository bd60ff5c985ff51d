"""A plug-in for visprompt: the strategy `spotlight`."""
