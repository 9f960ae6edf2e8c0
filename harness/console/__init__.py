"""Terminal output: the display of a running sweep, tables, and the options that commands share."""
