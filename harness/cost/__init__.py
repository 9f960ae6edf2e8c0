"""The estimated FLOPs, memory and time of a sweep, from a short calibration."""
