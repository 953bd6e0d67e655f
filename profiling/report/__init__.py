"""What a measurement says, once, and its forms: terminal, JSON, CSV, Markdown, LaTeX, HTML."""
