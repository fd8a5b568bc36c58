"""Circuit-Targeted Supervised Fine-Tuning (arXiv 2601.08146): find the heads that carry a task, tune only those."""

__version__ = "0.1.0"
