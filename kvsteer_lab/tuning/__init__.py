"""Choosing coefficients on development questions, with one budget for every method, and confirming them once on test questions."""

from .methods import ActivationSearch, CacheSearch, Search
from .search import Tuning, tune

__all__ = ["ActivationSearch", "CacheSearch", "Search", "Tuning", "tune"]
