"""Reports of measurements, and their formats: terminal, JSON, CSV, Markdown, LaTeX, HTML."""
