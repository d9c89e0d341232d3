"""What arrives: read, checked, kept."""
