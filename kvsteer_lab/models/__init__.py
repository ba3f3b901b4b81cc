"""Loading models, and everything that looks into one: prompts, attention, rotation, layers, prefilling."""
