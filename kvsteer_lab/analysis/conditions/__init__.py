"""Whether an effect depends on the offset token, the slot, the sample of pairs, temperature, or another style."""
