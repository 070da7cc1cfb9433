"""Files, written in full or not at all, and read without running code. Private."""
