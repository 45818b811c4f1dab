"""Expert Choice: experts take the tokens they like best, so load is even by construction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.lab.routers.routing import Routing, TokenContext


class ExpertChoiceRouter(nn.Module):
    """S = softmax(W x) over experts; each takes its c·T/N highest tokens, gated by S (Zhou et al. 2022, sec. 3.2).

    T tokens, N experts; top_k is c, the mean number of experts a token gets. Choosing among all tokens of a sequence
    would let the future decide on the past, so with `causal` each expert chooses among the tokens at one position of
    the batch's sequences. Where c · sequences is not a multiple of N, the experts that may take one token more rotate
    with the position. causal = False chooses over the whole batch, as the paper does; its language-model loss is then
    not comparable with that of other routers.
    """

    def __init__(self, hidden: int, experts: int, top_k: int, *, causal: bool = True):
        super().__init__()
        self.experts, self.top_k, self.causal = experts, top_k, causal
        self.weight = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]; ids hold each token's experts, `kept` says how many it got."""
        scores = torch.softmax(x @ self.weight.T, dim=1)
        sequences, positions = context.tokens.shape
        if self.causal:
            by_position = scores.detach().view(sequences, positions, -1).transpose(0, 1)  # [position, sequence, expert]
            chosen = take_tokens(by_position, self.quota(sequences, positions)).transpose(0, 1).reshape(scores.shape)
        else:
            quota = torch.full((1, self.experts), -(-self.top_k * len(x) // self.experts))
            chosen = take_tokens(scores.detach().unsqueeze(0), quota)[0]
        return routing_of_choices(chosen, scores)

    def quota(self, sequences: int, positions: int) -> Tensor:
        """[position, expert] tokens each expert may take; sums to c · sequences at every position."""
        whole, rest = divmod(self.top_k * sequences, self.experts)
        turn = (torch.arange(self.experts) + torch.arange(positions)[:, None] * rest) % self.experts
        return whole + (turn < rest).long()


def take_tokens(scores: Tensor, quota: Tensor) -> Tensor:
    """[pool, token, expert] bool: each expert's `quota` [pool, expert] best tokens of scores [pool, token, expert]."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1])[:, None].expand(order.shape).contiguous()
    )
    return place < quota.unsqueeze(1)


def routing_of_choices(chosen: Tensor, scores: Tensor) -> Routing:
    """A token-side `Routing` of choices [token, expert] bool, gated by scores [token, expert], best first."""
    most = max(1, int(chosen.sum(1).max()))
    ids = torch.where(chosen, scores.detach(), -1.0).topk(most, dim=1).indices
    kept = chosen.gather(1, ids)
    return Routing(ids, scores.gather(1, ids) * kept, scores.new_zeros(()), kept)
