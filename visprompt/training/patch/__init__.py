"""Pasting and priors of learned patches."""
