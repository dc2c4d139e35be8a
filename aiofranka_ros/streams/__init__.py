"""``streams``: which kind of stream the targets of a node are, what the arm does with them, and what to set.

It is an ordinary client of the graph, in its own process, which only listens. ``recording`` is what was received,
``analysis`` and ``response`` compute figures of it, ``advice`` puts them into words; these use arrays only. ``watch``
listens, ``report`` and ``plot`` show what was found.
"""
