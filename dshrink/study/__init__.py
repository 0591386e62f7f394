"""Studies: a recipe, its steps, what came out of them, and the report."""
