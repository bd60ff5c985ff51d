"""Which image token shows which pixels: one module per way of arranging tokens."""
