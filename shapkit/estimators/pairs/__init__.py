"""Estimators on pairs of a coalition and its complement, and the regressions of their payoffs."""
