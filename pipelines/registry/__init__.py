"""What stands: the ledger, the versions, and which of them serves."""
