"""The admin page: what an operator sees of the store of an app, and does with it. It needs Dash.

- ``page.py``: :class:`UserStoreAdmin`, which puts the page on an app, and lets in those who may
- ``own_dash.py``: the page's Dash app, which shares nothing with the app's own
- ``layout.py``, ``callbacks.py``: what is on the page, and how it is kept up to date; ``assets/``: how it looks
- ``overview.py``, ``charts.py``: how much there is
- ``owners.py``, ``values.py``: whose it is, and what
- ``tasks.py``, ``task_runner.py``: purge, check and backup
- ``samples.py``: how much there was
- ``records.py``: what the page itself keeps in the store
"""

from .page import UserStoreAdmin

__all__ = ["UserStoreAdmin"]
