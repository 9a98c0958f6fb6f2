"""Widgets over runs and views; the notebooks use `ui.approval`."""

from runbook_lib.ui.stage import approval

__all__ = ["approval"]
