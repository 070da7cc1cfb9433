"""MMEngine: optimizer wrappers and hooks."""
