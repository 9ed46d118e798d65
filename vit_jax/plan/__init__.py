"""What a run on devices that are not there will take: memory, collectives, time, price.

`python -m vit_jax.plan` is the command; training loads nothing of this.
"""
