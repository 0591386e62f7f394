"""Figures of the page, drawn by Bokeh: what is measured, what is predicted, and what was planned."""
