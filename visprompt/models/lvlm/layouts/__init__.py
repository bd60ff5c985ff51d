"""Layouts of image tokens: one module per way of arranging them."""
