"""Replay: what would a retraining policy have done to a model on its own past? The live steps, with an honest clock."""
