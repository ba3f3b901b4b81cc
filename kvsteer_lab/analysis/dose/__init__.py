"""Effects as the dose grows, and at equal doses."""
