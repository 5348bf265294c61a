"""The losses: pure functions of log-probs, each a few lines and its equation.

Shapes: B prompts, N image sets (0: the prompt's own), K completions (0: chosen, then the rejected).
Δ = log π_θ(y|x) − log π_ref(y|x); r = βΔ; m = r_chosen − r_rejected, one per rejected completion. Several rejected
completions are several pairs, whose mean is a prompt's loss, unless a loss says otherwise.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pairsight.training.loss_grid import LossInputs, LossOutputs, log_ratios, loss, mean_over_rejected


@loss(reference=True)
def dpo(x: LossInputs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> LossOutputs:
    """Direct preference optimisation: −(1−ε) log σ(m) − ε log σ(−m).

    Args:
        x: log-probs of policy and reference.
        beta: strength of the pull to the reference.
        label_smoothing: ε, the share of pairs assumed to be flipped, in [0, 0.5).

    Source: Rafailov et al. 2023 (2305.18290), eq. 7; ε: Mitchell 2023, a note on DPO with noisy preferences.
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    loss_BK = -(1 - label_smoothing) * logsigmoid(margins_BK) - label_smoothing * logsigmoid(-margins_BK)
    return LossOutputs(_over_pairs(x, loss_BK), rewards_BK.detach())


@loss(reference=True)
def cdpo(x: LossInputs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> LossOutputs:
    """Conservative DPO: `dpo` that assumes a tenth of the pairs to be flipped.

    Source: Mitchell 2023, a note on DPO with noisy preferences; the default ε is ours.
    """
    return dpo(x, beta=beta, label_smoothing=label_smoothing)


@loss(reference=True)
def robust(x: LossInputs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> LossOutputs:
    """Robust DPO, unbiased when a share ε of the pairs is flipped: [−(1−ε) log σ(m) + ε log σ(−m)] / (1 − 2ε).

    Args:
        x: log-probs of policy and reference.
        beta: strength of the pull to the reference.
        label_smoothing: ε, the share of pairs that are flipped, in [0, 0.5).

    Source: Chowdhury et al. 2024 (2403.00409), eq. 12.
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    loss_BK = -(1 - label_smoothing) * logsigmoid(margins_BK) + label_smoothing * logsigmoid(-margins_BK)
    return LossOutputs(_over_pairs(x, loss_BK) / (1 - 2 * label_smoothing), rewards_BK.detach())


@loss(reference=True)
def ipo(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """Identity preference optimisation: (Δ_chosen − Δ_rejected − 1/(2β))².

    On sums, as in the paper; with `average_log_prob` on means per token, as its authors advise for long completions.

    Args:
        x: log-probs of policy and reference.
        beta: the paper's τ: larger keeps closer to the reference.

    Source: Azar et al. 2023 (2310.12036), eq. 17.
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    return LossOutputs(_over_pairs(x, (margins_BK / beta - 1 / (2 * beta)) ** 2), rewards_BK.detach())


@loss(reference=True)
def hinge(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """Hinge loss on the margin: max(0, 1 − m).

    Args:
        x: log-probs of policy and reference.
        beta: the reciprocal of the required margin, in nats.

    Source: Liu et al. 2023 (2309.06657, RSO), eq. 8, after SLiC (2305.10425).
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    return LossOutputs(_over_pairs(x, torch.relu(1 - margins_BK)), rewards_BK.detach())


@loss(reference=True)
def multi_negative(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """One chosen against all rejected at once: log(1 + Σ_k exp(−m_k)). One rejected: DPO; at the reference: log(1+K).

    Args:
        x: log-probs of policy and reference.
        beta: strength of the pull to the reference.

    Source: SeVa (2404.10501), eq. 18.
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    against_BK = (-margins_BK).masked_fill(~x.mask_BNK[:, 0, 1:], -torch.inf)
    loss_B = torch.cat([torch.zeros_like(against_BK[:, :1]), against_BK], dim=1).logsumexp(1)
    return LossOutputs(loss_B, rewards_BK.detach())


@loss(reference=False, takes_average=False)
def simpo(x: LossInputs, *, beta: float = 2.0, gamma: float = 1.0) -> LossOutputs:
    """Without a reference, on means per token p̄: −log σ(β(p̄_chosen − p̄_rejected) − γ).

    Args:
        x: log-probs of the policy, and lengths.
        beta: scale of the reward.
        gamma: the target margin.

    Source: Meng et al. 2024 (2405.14734), eq. 6; defaults within its ranges (β 2–2.5, γ 0.3–1.6).
    """
    rewards_BK = beta * _means(x)
    margins_BK = rewards_BK[:, :1] - rewards_BK[:, 1:]
    return LossOutputs(_over_pairs(x, -logsigmoid(margins_BK - gamma)), rewards_BK.detach())


@loss(reference=False, takes_average=False)
def orpo(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """Imitation and odds ratio in one, on means per token p̄: −p̄_chosen − β log σ(log odds ratio).

    The odds of a completion are exp(p̄) / (1 − exp(p̄)).

    Args:
        x: log-probs of the policy, and lengths.
        beta: the paper's λ, the weight of the odds ratio.

    Source: Hong et al. 2024 (2403.07691), eq. 6 and 7; imitation as a mean over prompts is ours, so that the loss
    does not depend on what else is in the batch.
    """
    mean_BK = _means(x).clamp(max=-1e-6)
    odds_BK = mean_BK - torch.log(-torch.expm1(mean_BK))
    ratio_BK = odds_BK[:, :1] - odds_BK[:, 1:]
    loss_B = -mean_BK[:, 0] + beta * _over_pairs(x, -logsigmoid(ratio_BK))
    return LossOutputs(loss_B, (beta * mean_BK).detach())


@loss(reference=True, running={"kto_kl": "last"})
def kto(
    x: LossInputs, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> LossOutputs:
    """Kahneman–Tversky optimisation, each completion by itself: chosen 1 − σ(r − z), rejected 1 − σ(z − r).

    z = β max(0, KL), KL being the mean Δ over the completions of the step before (ours: the paper takes it from
    mismatched pairs of the same batch, which would cost a second forward pass and depend on packing).

    Args:
        x: log-probs of policy and reference; `state["kto_kl"]`.
        beta: strength of the pull to the reference.
        desirable_weight: weight of chosen completions.
        undesirable_weight: weight of rejected ones.

    Source: Ethayarajh et al. 2024 (2402.01306), eq. 8.
    """
    rewards_BK = beta * log_ratios(x)[:, 0]
    anchor = beta * max(0.0, x.state.get("kto_kl", 0.0))
    chosen_B = desirable_weight * torch.sigmoid(anchor - rewards_BK[:, 0])
    rejected_B = _over_pairs(x, undesirable_weight * torch.sigmoid(rewards_BK[:, 1:] - anchor))
    here_BK = x.mask_BNK[:, 0]
    kl_B = (log_ratios(x)[:, 0].detach() * here_BK).sum(1) / here_BK.sum(1)
    return LossOutputs((chosen_B + rejected_B) / 2, rewards_BK.detach(), {"kto_kl": kl_B})


@loss(reference=True, running={"mpo_delta": "mean"})
def mpo(
    x: LossInputs,
    *,
    beta: float = 0.1,
    preference_weight: float = 0.8,
    quality_weight: float = 0.2,
    generation_weight: float = 1.0,
) -> LossOutputs:
    """Mixed preference optimisation: 0.8 preference + 0.2 quality + 1.0 generation.

    Preference: −log σ(m). Quality: −log σ(r_chosen − δ) − log σ(δ − r_rejected), δ the running mean of rewards up to
    the step before. Generation: −log π(y_chosen) per token.

    Args:
        x: log-probs of policy and reference, lengths; `state["mpo_delta"]`.
        beta: strength of the pull to the reference.
        preference_weight: weight of DPO.
        quality_weight: weight of BCO, which asks whether a completion is good by itself.
        generation_weight: weight of imitation.

    Source: Wang et al. 2024 (2411.10442), eq. 1–5; quality: Jung et al. 2024 (2404.04656).
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    delta = x.state.get("mpo_delta", 0.0)
    preference_B = _over_pairs(x, -logsigmoid(margins_BK))
    quality_B = -logsigmoid(rewards_BK[:, 0] - delta) + _over_pairs(x, -logsigmoid(delta - rewards_BK[:, 1:]))
    generation_B = -_means(x)[:, 0]
    loss_B = preference_weight * preference_B + quality_weight * quality_B + generation_weight * generation_B
    rewards_BK = rewards_BK.detach()
    centre_B = (rewards_BK[:, 0] + _over_pairs(x, rewards_BK[:, 1:])) / 2
    return LossOutputs(loss_B, rewards_BK, {"mpo_delta": centre_B})


@loss(reference=True, images=2, contrast="small_crop")
def mdpo(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """DPO that must use the image: −log σ(m) − log σ(r(v,c) − r(v⁻,c)) − log σ(r(v,c)).

    v⁻ is a contrast image (the paper: a crop of 1–20 % of the image), c the chosen completion; the last term anchors
    its reward above zero.

    Args:
        x: log-probs under the prompt's images and under one contrast image.
        beta: strength of the pull to the reference.

    Source: Wang et al. 2024 (2406.11839), eq. 3–6.
    """
    rewards_BK, margins_BK = _rewards_and_margins(x, beta)
    anchor_B = -logsigmoid(rewards_BK[:, 0])
    loss_B = _over_pairs(x, -logsigmoid(margins_BK)) - logsigmoid(_image_margins(x, beta)) + anchor_B
    return LossOutputs(loss_B, rewards_BK.detach())


@loss(reference=True, images=2, min_completions=1, contrast="diffusion_weak")
def vision_contrast(x: LossInputs, *, beta: float = 0.1) -> LossOutputs:
    """The chosen completion must be likelier under its image than under a distorted one: −log σ(r(v,c) − r(v⁻,c)).

    Args:
        x: log-probs under the prompt's images and under one contrast image.
        beta: strength of the pull to the reference.

    Source: ours: SeVa's distortion as a negative image; the conditional term of mDPO (2406.11839, eq. 4).
    """
    rewards_BK = beta * log_ratios(x)[:, 0]
    return LossOutputs(-logsigmoid(_image_margins(x, beta)), rewards_BK.detach())


@loss(reference=False, takes_average=False)
def bradley_terry(x: LossInputs) -> LossOutputs:
    """For reward models, whose scores take the place of log-probs: −log σ(s_chosen − s_rejected).

    Source: Bradley & Terry 1952; as a loss, Ouyang et al. 2022 (2203.02155), eq. 1.
    """
    scores_BK = x.policy_logps_BNK[:, 0]
    return LossOutputs(_over_pairs(x, softplus(scores_BK[:, 1:] - scores_BK[:, :1])), scores_BK.detach())


@loss(reference=False, min_completions=1, per="token")
def sft(x: LossInputs) -> LossOutputs:
    """Imitate the chosen completion: −log π_θ(y), averaged over completion tokens of the full batch.

    Rewards are the policy's own means per token, so that margins stay readable. Source: maximum likelihood.
    """
    return LossOutputs(-x.policy_logps_BNK[:, 0, 0], _means(x).detach())


def _rewards_and_margins(x: LossInputs, beta: float) -> tuple[Tensor, Tensor]:
    """r = βΔ under the prompt's own images, [B, K], and r_chosen − r_rejected, [B, K − 1]."""
    rewards_BK = beta * log_ratios(x)[:, 0]
    return rewards_BK, rewards_BK[:, :1] - rewards_BK[:, 1:]


def _image_margins(x: LossInputs, beta: float) -> Tensor:
    """r(v, chosen) − r(v⁻, chosen), [B]."""
    ratios_BNK = log_ratios(x)
    return beta * (ratios_BNK[:, 0, 0] - ratios_BNK[:, 1, 0])


def _over_pairs(x: LossInputs, values_BK: Tensor) -> Tensor:
    return mean_over_rejected(values_BK, x.mask_BNK[:, 0, 1:])


def _means(x: LossInputs) -> Tensor:
    """Log-probs per token under the prompt's own images, [B, K]."""
    return x.policy_logps_BNK[:, 0] / x.lengths_BK.clamp(min=1)
