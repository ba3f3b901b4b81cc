"""What the explorer computes, without any widget."""
