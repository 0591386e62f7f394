"""A runtime without a model, for tests and rehearsals."""
