"""How the bundled pair of model organisms was made: corpus, tokenizer, trainer and gate. Not part of the installed
package.
"""
