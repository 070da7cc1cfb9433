"""Matrices of trainings: declared in a suite, trained, compared; for ``tools/experiment.py``."""
