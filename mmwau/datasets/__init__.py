"""Data sets that mmwau makes itself."""
