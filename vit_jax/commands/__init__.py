"""The commands that are nothing else: `vit_jax NAME` runs `commands/NAME.py`.

A command that Python programs call as well has its module among the rooms, `predict.py`
and `evaluate.py`. Each has its row in `vit_jax.__main__`.
"""
