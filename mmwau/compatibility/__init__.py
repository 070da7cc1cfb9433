"""Which recipes of MMDetection and MMPreTrain train with WAU, for ``tools/compatibility.py``."""
