"""What a sweep will take: FLOPs, memory and time, from a short calibration."""
