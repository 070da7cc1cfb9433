"""Reads and compares the folders that runs leave in ``work_dirs``. Private."""
