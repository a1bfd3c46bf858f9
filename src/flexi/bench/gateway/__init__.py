"""`flexi bench gateway`: what flexi's gateway costs, against the instance itself and against other proxies.

Everything is measured in one run on one lab. In the place of the instances stand servers that answer in Ollama's
words at a set pace (`instance`), so that the figures are the proxies' and not a model's. The clients (`client`) and all
proxies share the gateway's network: every request takes the same way.
"""
