"""Runs that are killed, and tests that meet faults."""
