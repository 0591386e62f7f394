"""Whether a device measures rightly: a few minutes of checks whose result can be sent to others.

``device`` puts the checks in order, ``network`` is what is run, ``asking`` asks the agent,
``outputs`` and ``times`` hold the checks, ``result`` is what was found.
"""
