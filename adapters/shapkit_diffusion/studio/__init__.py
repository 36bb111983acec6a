"""The region editor: what happens to an image is in `canvas.py`, how it is shown in a browser in `page.py`."""
