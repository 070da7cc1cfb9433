"""Data sets: one that mmwau draws itself, CIFAR from any origin, files in VOC and COCO form."""
