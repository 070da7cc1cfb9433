"""What one command finds out about WAU on a machine with a GPU; ``tools/gpu_check.py`` shows it."""
