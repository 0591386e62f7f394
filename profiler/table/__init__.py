"""From measurements to a latency table: rows, networks, the estimate, the audit."""
