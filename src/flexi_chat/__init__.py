"""What of flexi runs beside Open WebUI on the chat's host: Python 3.11, with the packages of the chat's own venv.

Shipped in one file as the package `flexi_chat`; nothing on the admin's machine imports it, but for
`courses_wanted`, which needs no package.
"""
