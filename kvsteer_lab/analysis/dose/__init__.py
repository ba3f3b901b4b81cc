"""Effects as the relative strength grows, and at equal relative strengths."""
