"""Everything of a run before its first step: settled, beginning, learner, planned, building, or a dry run of it.

Only `run`, and the estimate, call it.
"""
