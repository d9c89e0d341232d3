"""Telling people who have not asked."""
