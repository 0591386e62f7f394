"""One page of whatever a folder of results holds: a file that needs nothing else, nor a network.

``folder`` reads the files, ``sections`` say what they mean, ``figures`` draw, ``page`` writes.
"""
