import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for tests/reference.py

# Two busy cores make single examples slow now and then; that is no failure.
settings.register_profile('mmwau', deadline=None, derandomize=True)
settings.load_profile('mmwau')
