"""For all tests: hypothesis sets no time limit, because a shared machine may pause any example."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
