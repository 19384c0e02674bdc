"""What the pages put on the screen beside Streamlit's own elements."""
