"""Which job runs on which board, and when: one board in this process, or a fleet behind Dask."""
