"""A plug-in for visprompt 0.4.0: the strategies `lantern` and `glow`."""
