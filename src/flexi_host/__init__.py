"""flexi-agent: what runs on the hosts. It keeps instances right and says how they really are.

Standard library only, Python 3.10, relative imports: on a host the package is called `flexi_host`.
"""
