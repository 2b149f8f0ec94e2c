"""The similarity regulariser of LGSID (arXiv 2511.14221, G-DPO): meaning must survive alignment.

Shapes: B items of a batch, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.05
"""Of the cosines: the usual value of sentence encoders (SimCSE, arXiv 2104.08821)."""


def similarity_loss(policy_BD: Tensor, reference_BD: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """In-batch contrastive loss (InfoNCE) that keeps each policy vector closest to its own reference.

    ``-1/B Σ_i log softmax_j(policy_i · reference_j / temperature)[i]``

    Args:
        policy_BD: unit vectors of B distinct items by the policy.
        reference_BD: unit vectors of the same items by the frozen reference.
        temperature: lower asks for more distinction between items that are much alike.

    Returns:
        scalar; near 0 where every vector tells its own reference from the others, log B where none does.
    """
    import torch

    logits_BB = policy_BD @ reference_BD.to(policy_BD).T / temperature
    return torch.nn.functional.cross_entropy(logits_BB, torch.arange(len(policy_BD), device=policy_BD.device))
