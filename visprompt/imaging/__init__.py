"""Reading images, and pasting and tinting them."""
