"""Swarms that do not exist, in virtual time, with the policies of the real one."""
