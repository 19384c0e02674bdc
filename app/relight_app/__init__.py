"""The dashboard: a Streamlit app with live charts and its own routes. It loads no torch."""
