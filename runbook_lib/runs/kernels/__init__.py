"""Kernels of notebooks: forked from a process that has imported everything, or started anew; see docs/kernels.md."""
