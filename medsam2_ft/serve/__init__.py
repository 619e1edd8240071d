"""HTTP server: interactive segmentation for web pages and viewers."""
