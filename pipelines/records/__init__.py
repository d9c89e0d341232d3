"""What is predicted: the examples, what was answered, and what turned out."""
