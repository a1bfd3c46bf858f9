"""Course bots: what teachers put into the site's courses folder, read and checked. `load_courses(Path("courses"))`."""

from .load import Course, load_courses
from .material import Material

__all__ = ["Course", "Material", "load_courses"]
