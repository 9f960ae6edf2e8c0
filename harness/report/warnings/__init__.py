"""The warnings of a report: detectors, and the text of each warning."""
