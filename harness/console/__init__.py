"""What a person sees in the terminal: the running sweep, tables, and the options that commands share."""
