"""``mpify``: objects that live in a process of their own and are called like local ones.

``isolated`` is what users see; ``process`` is the parent's side, ``worker`` the child's, ``protocol`` and ``arrays``
are what travels between them.
"""
