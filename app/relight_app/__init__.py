"""The dashboard: a Streamlit app with live charts, served beside its own routes. Loads no torch."""
