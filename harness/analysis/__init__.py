"""The statistics of a sweep: comparisons, verdicts, factors, search quality. No page and no figure."""
