"""Which layers and heads an effect needs."""
