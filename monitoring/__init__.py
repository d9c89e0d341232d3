"""Is it still right, why not, and what to do about it: pure functions over profiles, labels and verdicts."""
