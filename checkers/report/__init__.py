"""A run's results for people (terminal) and for programs (one JSON document)."""
