"""Figures and pages of what was measured; nothing is measured here."""
