"""Your own loop in a swarm. Terminal 1: python own_loop.py DIR_ONE. Terminal 2: python own_loop.py DIR_TWO shoal:..."""

import sys
from contextlib import suppress

import torch

import shoal

model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
spec = {"name": "product", "members_start": 2, "rounds_max": 5, "settings": {"steps": 50}}

if len(sys.argv) > 2:
    swarm = shoal.join(sys.argv[2], data_dir=sys.argv[1])
else:
    swarm = shoal.create(model, data_dir=sys.argv[1], spec=spec)

with swarm:
    outer = swarm.diloco(model, optimizer)
    print(swarm.invite(), flush=True)
    with suppress(shoal.SwarmEnded), outer:  # waits for the second member, then takes the swarm's parameters
        while True:
            x = torch.rand(64, 2)  # your data
            loss = (model(x) - x.prod(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            outer.step()
    print(swarm.status()["round"], swarm.status()["state_digest"])
