"""Pictures of finished models: every figure is a `PIL.Image.Image`; a report gathers them in one HTML file."""
