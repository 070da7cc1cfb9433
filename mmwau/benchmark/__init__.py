"""What WAU costs and saves, measured beside plain training; ``tools/benchmark.py`` shows it."""
