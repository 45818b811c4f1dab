"""Round dead NICs: through those of siblings in the same scale-up domain.

A message leaves and enters domains at places. Its own way is kept where it is whole. Else it leaves and enters at one
place (on one rail) at which both domains have a live NIC: its source's, so that the many senders to a rank whose NIC is
dead spread over its siblings; else its target's, so that the messages of a rank whose NIC is dead spread likewise; else
one of those left, in turn. Inside the domains it crosses NVLink (a PCIe root, a mesh) to get there and from there. What
NCCL calls PXN does this for rails; libraries that pin a NIC to each GPU would fail instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Detours:
    """Which places are left between two domains.

    domain, place: [ranks]. member: [domains, places] rank, −1 = none. whole: [domains, domains, places] whether a
    message can leave the first domain and enter the second at a place. order: the same shape, such places first. count:
    [domains, domains] how many there are. sends, takes: [ranks] whether the NIC works outwards and inwards. leaf:
    [ranks]. joined: [leaves, leaves] whether a spine (or being one) joins two leaves.
    """

    domain: np.ndarray
    place: np.ndarray
    member: np.ndarray
    whole: np.ndarray
    order: np.ndarray
    count: np.ndarray
    sends: np.ndarray
    takes: np.ndarray
    leaf: np.ndarray
    joined: np.ndarray

    def open(self, leave: np.ndarray, enter: np.ndarray) -> np.ndarray:
        """Whether bytes get from the NIC of one rank to that of another."""
        return self.sends[leave] & self.takes[enter] & self.joined[self.leaf[leave], self.leaf[enter]]

    def around(self, source: np.ndarray, target: np.ndarray, leave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rank whose NIC sends, rank whose NIC takes) of each pair. leave: the sender where nothing is dead.

        Pairs inside a domain keep (leave, target), and so do those that have no way round.
        """
        first, last = self.domain[source], self.domain[target]
        near, far = self.place[source], self.place[target]
        count = self.count[first, last]
        turn = self.order[first, last, (near + far) % np.maximum(count, 1)]
        place = np.where(self.whole[first, last, far], far, turn)
        place = np.where(self.whole[first, last, near], near, place)
        stuck = (first != last) & ~self.open(leave, target) & (count > 0)
        return np.where(stuck, self.member[first, place], leave), np.where(stuck, self.member[last, place], target)


def detours(
    domain: np.ndarray, place: np.ndarray, out: np.ndarray, back: np.ndarray, leaf: np.ndarray, share: np.ndarray
) -> Detours | None:
    """What is left between domains, or None where every NIC lives.

    domain, place, leaf: [ranks]. out, back: [ranks, 2] links to and from the leaf, −1 = dead. share: [leaves, leaves,
    spines].
    """
    sends, takes = (out >= 0).all(axis=1), (back >= 0).all(axis=1)
    if sends.all() and takes.all():
        return None
    leaves = max(int(leaf.max()) + 1, 1)
    joined = np.eye(leaves, dtype=bool)
    if share.size:
        joined |= share.sum(axis=2) > 0
    member = np.full((int(domain.max()) + 1, int(place.max()) + 1), -1)
    member[domain, place] = np.arange(len(domain))
    there = member >= 0
    leave, enter = member[:, None, :], member[None, :, :]
    whole = sends[leave] & takes[enter] & there[:, None] & there[None] & joined[leaf[leave], leaf[enter]]
    order = np.argsort(~whole, axis=2, kind="stable")
    return Detours(domain, place, member, whole, order, whole.sum(axis=2), sends, takes, leaf, joined)
