"""Data sets: one that mmwau draws itself, and CIFAR from any origin."""
