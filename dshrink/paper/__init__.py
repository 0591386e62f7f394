"""The tables and figures of DepthShrinker and of Kim et al., beside what a device measures."""
