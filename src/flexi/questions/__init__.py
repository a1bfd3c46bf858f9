"""Multiple-choice questions about a course text, made by a model behind the gateway, as Moodle reads them.

A text is cut into sections, the model is asked for one question at a time, what it says is judged here and by a second
request, and what is left becomes Moodle XML.
"""
