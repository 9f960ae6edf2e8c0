"""What a person sees in the terminal: options, tables, the live screen, the event log."""
