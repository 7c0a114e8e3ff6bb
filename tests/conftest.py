"""What holds for all tests."""

import os

from hypothesis import settings

# No deadline: the time of one example says more about the machine's other work than about ours.
settings.register_profile("shoal", deadline=None, max_examples=2000 if os.environ.get("SHOAL_SOAK") else 100)
settings.load_profile("shoal")
