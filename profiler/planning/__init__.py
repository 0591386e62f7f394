"""Which networks and pieces are measured, and which need no further round."""
