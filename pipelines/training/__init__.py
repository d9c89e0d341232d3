"""A challenger: fitted, judged, compared."""
