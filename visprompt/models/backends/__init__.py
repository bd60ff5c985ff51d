"""One module per library that encoders come from."""
