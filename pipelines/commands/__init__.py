"""What `headway` does, command by command."""
