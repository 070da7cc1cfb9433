"""Building blocks of the method. Private."""
