"""The paper's own tables and figures: their networks, their figures, and both measured again."""
