"""Widgets over runs and views, for people in JupyterLab. Every widget has a static twin from views."""
