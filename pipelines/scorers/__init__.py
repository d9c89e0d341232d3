"""From a frame to scores: the three tasks, and compiled scorers that agree with the pipeline."""
