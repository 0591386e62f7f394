"""DepthShrinker and the latency tables that drive it: plan, merge, verify, benchmark, draw."""
