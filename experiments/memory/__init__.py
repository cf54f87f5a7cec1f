"""How far back a recurrent network remembers: adding and copying."""
