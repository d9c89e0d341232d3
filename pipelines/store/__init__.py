"""Features: computed at their cadence, joined as of decision times, brought to serving."""
