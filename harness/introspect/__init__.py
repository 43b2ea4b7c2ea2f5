"""The child's side of asking plugins what they register, which parameters fit, and what a class
says of itself.

`python -m harness.introspect REQUEST.json REPLY.jsonl SECONDS` answers a list of questions, a line
each. Everything here runs in a throw-away process, since importing a plugin may do anything;
`harness.registry.ask` is the parent's side.
"""
