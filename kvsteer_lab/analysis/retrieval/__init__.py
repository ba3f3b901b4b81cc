"""What the chunks of a prompt do: steering towards one, attention to each, and what is left of one that was erased."""
