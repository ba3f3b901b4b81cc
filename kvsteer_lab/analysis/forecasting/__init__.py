"""Forecasts of an effect from the pairs alone, and how well they do."""
