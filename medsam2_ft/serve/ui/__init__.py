"""The page: Gradio on the application of ``serve.api``. Only this package knows Gradio."""
