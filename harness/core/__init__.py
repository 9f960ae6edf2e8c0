"""Words and small tools that every package may use: metrics, outcomes, errors, files, locks, hardware."""
