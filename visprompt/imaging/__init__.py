"""Loading images, pasting patches into them and tinting them."""
