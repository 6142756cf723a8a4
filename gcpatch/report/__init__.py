"""What a run looks like: pages, tables, figures, exports."""
