"""Pages, tables, figures and terminal texts of findings, plans, benchmarks and runs. Pure: data in, text out."""
