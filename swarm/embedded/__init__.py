"""The model pair that ships with the program: folders in the form that transformers reads.

How they were made and what they can do is told in MODEL_CARD.md beside them.
"""

from pathlib import Path

TARGET = Path(__file__).parent / "target"
DRAFT = Path(__file__).parent / "draft"
