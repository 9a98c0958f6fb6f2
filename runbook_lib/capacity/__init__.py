"""Memory, step time, engine simulation, planner: pure. Empty so far; see README, what is narrow."""
