"""What is left of an effect in later turns."""
