"""The bundled pair of model organisms: corpus, tokenizer, trainer, gate, and the weights as package data."""
