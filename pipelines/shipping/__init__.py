"""A version as a bento that runs elsewhere."""
