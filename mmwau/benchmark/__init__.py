"""What WAU costs and saves, relative to training without it; ``tools/benchmark.py`` shows it."""
