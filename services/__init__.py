"""Answering predictions, and remembering them."""
