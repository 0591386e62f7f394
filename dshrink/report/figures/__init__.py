"""Figures of the page, drawn by Bokeh: what was measured, what is predicted, what was planned."""
