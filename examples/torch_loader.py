"""A PyTorch DataLoader after a step of training: its workers (fork) multiply matrices as an augmentation would.

    OMP_PROC_BIND=close knlfix run python3 examples/torch_loader.py [WORKERS]

Needs torch and numpy.
"""

import os
import sys

import torch

import workers


class Products(torch.utils.data.Dataset):
    def __init__(self, tasks):
        self.tasks = tasks

    def __len__(self):
        return self.tasks

    def __getitem__(self, seed):
        return workers.task(seed, products=5)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))
    torch.nn.Linear(512, 512)(torch.rand(4096, 512)).sum().backward()
    data = Products(count * workers.TASKS_PER_WORKER)
    workers.tell(list(torch.utils.data.DataLoader(data, batch_size=None, num_workers=count)))


if __name__ == "__main__":
    main()
