"""The updates of one training, in any loop. Private."""
