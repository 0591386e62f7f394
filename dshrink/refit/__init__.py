"""Refitting merged convolutions to what the original network gave, in closed form."""
