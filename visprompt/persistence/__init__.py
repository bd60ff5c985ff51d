"""Files of saved prompts and their model cards."""
