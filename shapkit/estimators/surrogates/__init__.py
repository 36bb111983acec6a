"""Estimators that fit a model of the game and correct its error without bias."""
