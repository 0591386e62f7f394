"""From measurements to a latency table: rows in each context, calibration, hold-out, audit."""
