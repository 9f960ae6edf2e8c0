"""The sections of a report below the answer."""
