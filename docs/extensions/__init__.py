"""What Sphinx is taught for these pages, one thing a module."""
