"""The compared editing systems, behind one interface."""
