"""Format numbers for people."""


def human_bytes(count: int) -> str:
    """Return a number of bytes with its unit: 1,234,567 gives '1.23 MB'."""
    if count < 1000:
        return f"{count} B"
    size, unit = count / 1000, "kB"
    if size >= 1000:
        size, unit = size / 1000, "MB"
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
