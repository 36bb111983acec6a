"""Squared errors of the estimators, shapkit's and others', at equal budgets."""
