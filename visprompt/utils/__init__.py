"""Small helpers that know nothing of models: files, hashes, statistics."""
