"""The paper's protocol of transfer: what it runs, and its tables."""
