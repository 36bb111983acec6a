"""For all tests: hypothesis sets no time limit, because a shared machine may pause any example.

Where several processes share the tests, each keeps to one thread: more would fight over the cores.
"""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numpy are imported; their own processes inherit it

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
