"""What a night and a week look at, and what they decide."""
