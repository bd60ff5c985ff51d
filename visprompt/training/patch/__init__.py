"""Learned patches: pasting them into batches, and parametrisations of their colours."""
