"""The parts of the pages that Streamlit does not have."""
