"""What the scripts of ``tools`` share. Private."""
