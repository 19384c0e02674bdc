"""Tells from a metric's name whether a higher or a lower value is better: the field's usual names, by whole words."""

from __future__ import annotations

import re
from itertools import pairwise

_HIGHER_WORDS = """
    acc accuracy acc1 acc5 macc oa top topk correct exact em anls precision prec recall sensitivity specificity tpr
    tnr tar ppv npv f1 f2 f05 f fbeta fscore fmeasure idf1 gmean youden mcc kappa qwk auc auroc aucroc rocauc roc
    auprc aucpr prauc aupr ap map mar ar aps apm apl ndcg dcg mrr hit hits iou miou fiou fwiou giou jaccard jac
    dice dsc mdice pq sq rq nsd oks pck pckh mota motp hota bleu sacrebleu rouge rougel rougelsum meteor cider
    ciderd spice chrf bertscore bleurt comet wip uas las psnr ssim msssim vmaf fsim vif uqi musiq nima clipiqa
    clipscore inception pesq stoi estoi sdr sisdr sdri sisdri snr sisnr sisnri mos dnsmos utmos r2 rsq rsquared q2
    pearson pearsonr spearman spearmanr kendall kendalltau corr correlation corrcoef ccc plcc lcc srcc srocc krcc
    krocc reward rew return win winrate elo trueskill success solved solve pass utility profit revenue gain sharpe
    pnl lift uplift improvement reduction elbo likelihood loglikelihood loglik llh ll logprob logprobs evidence
    silhouette nmi ari ami purity homogeneity completeness vmeasure calinski modularity concordance cindex
    similarity cossim agreement coverage fidelity fluency coherence relevance helpfulness harmlessness faithfulness
    validity uniqueness novelty diversity enrichment lddt plddt gdt throughput fps speed ips quality tp tn
"""
_LOWER_WORDS = """
    loss error err mistake misclassification inaccuracy miss missed missrate fpr fnr fp fn far frr eer hter apcer
    bpcer acer dcf mindcf mse rmse rms nmse nrmse mae nmae mad medae mape mdape smape wape wmape rmsle msle mase
    rmsse mre mpe rse rrse rae sse sae nme l1 l2 residual deviance huber hinge focal pinball quantile crps wis
    entropy xent xe ce bce nll nelbo logloss unlikelihood perplexity ppl pplx bits bpb bpc bpd bpw bpt kl kld jsd
    mmd divergence discrepancy wasserstein emd brier ibs ece mce sce miscalibration wer cer ter ser mer wil der jer
    levenshtein edit fid kid fad fvd kvd lpips dists niqe brisque piqe gmsd ergas mcd distortion distance dist
    dissimilarity hd hausdorff assd asd msd chamfer epe aepe ade fde minade minfde rpe mpjpe pampjpe mpvpe pve
    silog rmsd clash idsw regret cost penalty violation collision failure drawdown gap drop degradation forgetting
    latency delay lag runtime energy toxicity hallucination inertia bouldin aic bic rank infidelity fpr95tpr
    docking
"""
_PHRASES = {
    "true positive": True, "true negative": True, "false positive": False, "false negative": False,
    "false alarm": False, "false discovery": False, "false acceptance": False, "false rejection": False,
    "positive predictive": True, "negative predictive": True, "explained variance": True, "reciprocal rank": True,
    "exact match": True, "ep ret": True, "c index": True,
    "f beta": True, "f measure": True, "log prob": True, "per second": True,
    "per sec": True, "r squared": True, "cross entropy": False, "abs rel": False, "sq rel": False, "word error": False,
    "tm score": True, "si sdr": True, "si snr": True, "ms ssim": True, "r 2": True, "f 1": True, "l 1": False,
    "l 2": False,
}  # fmt: skip
_WEAK = {"score": True, "scores": True, "per": False, "time": False, "duration": False, "seconds": False}
"""Words that decide only where no other word does: "fid_score" is a distance, "time_to_accuracy" is about a time."""
_NEGATED_WORDS = """
    mean median root max log loglikelihood likelihood elbo brier mse mae rmse loss error ll llh
"""
"""What follows "neg" in a name where it turns the value around, as in "neg_mean_squared_error"; not "neg_accuracy"."""
_SPLITS = ("training", "train", "validation", "valid", "val", "testing", "test", "eval", "dev", "mean", "avg", "macro",
           "micro", "weighted", "balanced")  # fmt: skip
"""What people write in front of a metric without a separator: "valloss", "testacc"."""
_ENDINGS = ("score", "rate", "coef", "coefficient")
_HIGHER, _LOWER, _NEGATED = (frozenset(words.split()) for words in (_HIGHER_WORDS, _LOWER_WORDS, _NEGATED_WORDS))
_RUN = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+|[^\W\d_]+")


def guess_direction(name: str) -> bool | None:
    """Return whether a higher value of the metric is better; None if its name does not say so.

    Names are split into words at separators, digits and capitals. The last word that decides wins: "dice_loss" is a
    loss. What follows "@" is a condition ("recall@5").
    """
    words = _split(name)
    found: bool | None = None
    weak: bool | None = None
    at = 0
    while at < len(words):
        phrase = _PHRASES.get(" ".join(words[at : at + 2]).removesuffix("s"))
        length = 1 if phrase is None else 2
        decided = _judge(words[at]) if phrase is None else phrase
        if decided is not None:
            found = decided
        elif words[at] in _WEAK and (words[at] != "per" or at == len(words) - 1):
            weak = _WEAK[words[at]]
        at += length
    if found is None:
        found = weak
    if found is not None and _is_negated(words):
        return not found
    return found


def word_guess(metric: str, *, is_script: bool) -> str:
    """Say that the direction of the metric of that full name is a guess, and which option settles it."""
    short = metric.removeprefix("validation/")
    place = f'to relight.init(best="{short}")' if is_script else "to the task's class"
    return (
        f"The name of the metric {short} does not say whether higher or lower is better. Relight takes the checkpoint "
        f"with the highest value as the best one. To choose, add higher_is_better=True or False {place}."
    )


def _split(name: str) -> list[str]:
    """Return the lower-case words of a name. A run that is one word stays whole: "mAP", "ROUGE", "R2"."""
    words: list[str] = []
    text = re.sub(r"(?<![^\W_])[Rr]@", "recall@", name)
    for part in re.sub(r"@[^/]*", "", text).split("/"):
        for run in _RUN.findall(part):
            whole = run.lower()
            words += [whole] if _judge(whole) is not None else [piece.lower() for piece in _CAMEL.findall(run)]
    return words


def _judge(word: str) -> bool | None:
    """Judge one word, also with a number at its end ("top5", "hd95"), in the plural, or behind "val"."""
    for form in _vary(word):
        if form in _HIGHER:
            return True
        if form in _LOWER:
            return False
    return None


def _vary(word: str) -> list[str]:
    forms = [word, word.rstrip("0123456789")]
    forms += [form[:end] for form in forms[:2] for end in (-1, -2) if form.endswith("s" if end == -1 else "es")]
    for form in tuple(forms):
        forms += [form[len(split) :] for split in _SPLITS if form.startswith(split)]
    for form in tuple(forms):
        forms += [form[: -len(ending)] for ending in _ENDINGS if form.endswith(ending)]
    return forms


def _is_negated(words: list[str]) -> bool:
    return any(word in ("neg", "negative", "minus") and after in _NEGATED for word, after in pairwise(words))
