"""Runs: sessions of stages, the papermill engine, the runner, events, redaction, manifest, report."""
