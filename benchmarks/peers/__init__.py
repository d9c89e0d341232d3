"""Servers written by hand and those of other frameworks, to compare with: each file is one server, run as it says."""
